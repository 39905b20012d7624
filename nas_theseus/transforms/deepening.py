"""Make networks deeper without changing their outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor, nn

from nas_theseus.errors import TransformError
from nas_theseus.guide.tracing import evaluating
from nas_theseus.transforms import layers
from nas_theseus.transforms.channels import uniform
from nas_theseus.transforms.closing_activation import activation_before, is_activation, refuse_range
from nas_theseus.transforms.growth_options import GrowthOptions
from nas_theseus.transforms.lineage import Lineage
from nas_theseus.transforms.methods import deepening
from nas_theseus.transforms.sites import removing
from nas_theseus.transforms.students import example, make_student, replace
from nas_theseus.transforms.zero import zero_initialise
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed


class Residual(nn.Module):
    """x ↦ σ(x + F(x)); σ only for networks with an activation after their additions."""

    def __init__(self, block: nn.Module, activation: nn.Module | None = None) -> None:
        super().__init__()
        self.block, self.activation = block, activation

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.block(x)
        return out if self.activation is None else self.activation(out)


class Behind(nn.Sequential):
    """A submodule followed by new layers, called with the submodule's arguments."""

    def __init__(self, before: nn.Module, new: nn.Module) -> None:
        super().__init__(before, new)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        before, new = self
        return new(before(*args, **kwargs))


def deepen(
    model: nn.Module,
    after: str,
    block: nn.Module | None = None,
    method: str = "r2deeper",
    *,
    inlet: Boundary | Sequence[int],
    activation: nn.Module | None = None,
    sample: Tensor | None = None,
    lineage: Lineage | None = None,
    **options: Unpack[GrowthOptions],
) -> nn.Module:
    """Insert new layers after a submodule, which is replaced by `Behind`, a sequence of both.

    - ``r2deeper``: x ↦ x + F(x), F ≡ 0 by two layers that cancel (R2R, section 4.4, eqs. 24–27).
    - ``zero``: x ↦ x + F(x) with a last layer of zeros (*ours*, as a comparison).
    - ``net2deeper``: an identity layer and an idempotent σ (Chen et al. 2015; R2R, section 5.1). A
      batch norm in it takes statistics and affine parameters from `sample`. The result is exact in
      eval mode, and in train mode if a batch has the sample's statistics.
    - ``random-pad``: x ↦ x + F(x) with a random F: the ablation that preserves nothing.

    Args:
        model: any module; with an activation or ``net2deeper``, torch.fx must be able to trace it.
        after: name of the submodule after which the layers are inserted.
        block: F, from any tensor to one of equal shape; for ``net2deeper`` the identity layer, an
            ``nn.Sequential`` of layers, batch norms and idempotent activations. It is not copied.
            Default: two 3×3 convolutions around batch norm and ReLU on maps, layer norm and a
            two-layer MLP on tokens, two linear layers on vectors; for ``net2deeper`` one layer and
            the activation before it.
        method: one of the above.
        inlet: shape of one input of the model without the batch, or a task's inlet.
        activation: σ after the addition, as in post-activation networks. It must be idempotent, and
            is exact if x is in its range, as it is after another σ (*ours*).
        sample: inputs of the model for the statistics of a batch norm in an identity layer.
        lineage: as for `widen`; parameters of `after` get new names.
        options: see `GrowthOptions`. A scale draws the block's weights anew, uniform with that many
            standard deviations of the last kernel before it (section 6); a given block keeps its
            weights by default.

    Raises:
        TransformError: raised before the model is changed: the submodule or method is unknown; the
            submodule does not return a single tensor, or runs more than once; the block changes
            the shape or cannot be made zero (`zero_initialise`); the activation is not idempotent
            or may receive values that it changes; the identity layer is grouped, strided or has an
            even kernel.
    """
    chosen = deepening(method)
    defaults = GrowthOptions(scale=None, noise=0.0, seed=0, in_place=False)
    grown = completed("deepen", options, defaults)
    scale, noise, seed = grown["scale"], grown["noise"], grown["seed"]
    inputs = example(model, inlet)
    features, deviation = _features(model, after, inputs)
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        new = block or _default_block(model, after, features, inputs, method)
    new = new.to(device=features.device, dtype=features.dtype if block is None else None)
    new.train(model.get_submodule(after).training)
    _refuse_shape(new, features)
    if activation is not None:
        refuse_range(model, after, inputs, [activation])
    if (scale is not None or block is None) and method != "net2deeper":
        _draw(new, (1.0 if scale is None else scale) * deviation, generator)
    if method == "net2deeper":
        refuse_range(model, after, inputs, [m for m in new.modules() if is_activation(m)])
        make_identity(new, None if sample is None else _features(model, after, sample)[0])
    elif method != "random-pad":
        zero_initialise(new, features, cancel=method == "r2deeper")
    if noise:
        _add_noise(new, noise * deviation, generator)
    behind = new if method == "net2deeper" else Residual(new, activation)

    def change(network: nn.Module) -> None:
        replace(network, after, Behind(network.get_submodule(after), behind))

    preserved = chosen.preserved_eval == "exactly" and not noise
    what = f"deepening after {after!r} by {method}"
    student = make_student(
        model, change, inputs, what, preserved=preserved, in_place=grown["in_place"]
    )
    if lineage is not None:
        lineage.moved(after, f"{after}.0")
    return student


def make_identity(layers_: nn.Module, features: Tensor | None) -> None:
    """Turn a sequence of layers into the identity, in place.

    A batch norm whose inputs have mean μ and variance ν gets the statistics μ and ν and the affine
    parameters √(ν + ε) and μ, which invert it.

    Args:
        layers_: linear layers, convolutions with odd kernels, batch norms, idempotent activations.
        features: inputs of the layers; only needed for a batch norm.

    Raises:
        TransformError: a layer is of another kind, or a batch norm has no `features`.
    """
    steps = list(layers_) if isinstance(layers_, nn.Sequential) else [layers_]
    for step in steps:
        found = layers.linear_map(step)
        if found is not None:
            _refuse_no_identity(step)
        elif layers.is_batch_norm(step) and features is None:
            raise TransformError(
                "a batch norm in an identity layer inverts the statistics of its inputs: pass "
                "`sample`, inputs of the model"
            )
        elif not (layers.is_batch_norm(step) or is_activation(step)):
            raise TransformError(
                "an identity layer can consist of convolutions, linear layers, batch norms and "
                f"activations, not {type(step).__name__}"
            )
    with torch.no_grad():
        for step in steps:
            if layers.linear_map(step) is not None:
                weight, bias = step.get_parameter("weight"), step._parameters.get("bias")
                nn.init.eye_(weight) if weight.ndim == 2 else nn.init.dirac_(weight)
                if bias is not None:
                    bias.zero_()
            elif layers.is_batch_norm(step) and features is not None:
                rows = features.movedim(1, 0).flatten(1)
                mean, variance = rows.mean(1), rows.var(1, correction=0)
                step.get_buffer("running_mean").copy_(mean)
                step.get_buffer("running_var").copy_(variance)
                step.get_parameter("weight").copy_((variance + step.eps).sqrt())  # type: ignore[operator]
                step.get_parameter("bias").copy_(mean)


def _features(model: nn.Module, after: str, inputs: Tensor) -> tuple[Tensor, float]:
    """A submodule's output, and the standard deviation of the last kernel up to there."""
    modules = dict(model.named_modules())
    if after not in modules or not after:
        raise TransformError(
            f"{type(model).__name__} has no submodule {after!r}; it has "
            + ", ".join([name for name in modules if name][:40])
        )
    given: list[object] = []
    deviations: list[float] = []

    def remember(module: nn.Module) -> None:
        if not given:
            weight = module.get_parameter("weight").detach().double()
            deviations.append(float(weight.std(correction=0)))

    hooks = [
        module.register_forward_pre_hook(lambda module, _: remember(module))
        for module in modules.values()
        if layers.linear_map(module) is not None
    ]
    hooks.append(modules[after].register_forward_hook(lambda *call: given.append(call[2])))
    with removing(hooks), evaluating(model):
        model(inputs)
    if len(given) != 1 or not isinstance(given[0], Tensor) or given[0].ndim < 2:
        raise TransformError(
            f"{after!r} must run once and return one tensor for layers to follow it; it runs "
            f"{len(given)} times" + (f" and returns {type(given[0]).__name__}" if given else "")
        )
    # If there is no kernel before, use the deviation of torch's initialisation.
    return given[0], deviations[-1] if deviations else float(given[0].shape[1]) ** -0.5


def _default_block(
    model: nn.Module, after: str, features: Tensor, inputs: Tensor, method: str
) -> nn.Module:
    width = features.shape[1] if features.ndim == 4 else features.shape[-1]
    if method == "net2deeper":
        layer: nn.Module = nn.Linear(width, width)
        if features.ndim == 4:
            layer = nn.Conv2d(width, width, 3, padding=1)
        return nn.Sequential(layer, *activation_before(model, after, inputs))
    hidden = width + width % 2
    if features.ndim == 4:
        return nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1, bias=False),
            nn.BatchNorm2d(hidden),
            nn.ReLU(),
            nn.Conv2d(hidden, width, 3, padding=1),
        )
    if features.ndim == 3:
        return nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width))


def _draw(block: nn.Module, deviation: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for module in block.modules():
            if layers.linear_map(module) is not None:
                weight = module.get_parameter("weight")
                weight.copy_(uniform(weight.shape, deviation, generator))


def _add_noise(block: nn.Module, deviation: float, generator: torch.Generator) -> None:
    with torch.no_grad():
        for module in block.modules():
            if layers.linear_map(module) is not None:
                weight = module.get_parameter("weight")
                weight.add_(uniform(weight.shape, deviation, generator).to(weight))


def _refuse_shape(block: nn.Module, features: Tensor) -> None:
    try:
        with evaluating(block):
            given = block(features)
    except Exception as error:  # the user's block may raise anything
        raise TransformError(
            f"the block fails on its inputs of shape {tuple(features.shape)}: "
            f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        ) from error
    if not isinstance(given, Tensor) or given.shape != features.shape:
        shape = tuple(given.shape) if isinstance(given, Tensor) else type(given).__name__
        raise TransformError(
            f"the block must keep the shape {tuple(features.shape)}, but returns {shape}"
        )


def _refuse_no_identity(layer: nn.Module) -> None:
    """Raise TransformError unless a layer has equal widths, odd kernels, stride 1 and one group."""
    kernel = getattr(layer, "kernel_size", (1,))
    weight = layer.get_parameter("weight")
    transposed = "Transpose" in type(layer).__name__
    if weight.shape[0] != weight.shape[1] or any(k % 2 == 0 for k in kernel) or transposed:
        raise TransformError(
            f"{layer} cannot be an identity: it needs one group, equal widths and odd kernels"
        )

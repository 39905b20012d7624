"""Factorised convolutions: exact where the kernel allows it, near on data, cheaper, exportable."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as vision
from torch import Tensor, nn

from nas_theseus.blocks import LowRankConv, SeparableConv
from nas_theseus.blocks.of_convolutions import low_rank_conv, separable
from nas_theseus.costs import count_macs
from nas_theseus.errors import PairingError, TransformError
from nas_theseus.guide.networks import BasicBlock
from nas_theseus.values.architecture import Boundary


def pictures(width: int, size: int = 8, examples: int = 48) -> Tensor:
    """Smooth maps with correlated channels, as networks have them."""
    generator = torch.Generator().manual_seed(2)
    hidden = F.avg_pool2d(torch.randn(examples, 6, size, size, generator=generator), 3, 1, 1)
    mixing = torch.randn(width, 6, generator=generator)
    noise = torch.randn(examples, width, size, size, generator=generator)
    return F.relu(2 * torch.einsum("oc,nchw->nohw", mixing, hidden) + 0.1 * noise)


def trained(part: nn.Module) -> nn.Module:
    """Statistics and parameters of norms as training might leave them."""
    generator = torch.Generator().manual_seed(3)
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            module.weight.data.uniform_(0.3, 1.5, generator=generator)
            module.bias.data.normal_(0, 0.3, generator=generator)
    return part.eval()


def basic(width: int = 16) -> nn.Module:
    torch.manual_seed(0)
    return trained(BasicBlock(width, width))


@torch.no_grad()
def miss(part: nn.Module, block: nn.Module, features: Tensor) -> float:
    """Squared error of a block's outputs relative to their spread."""
    wanted = part(features.clone())
    off = (block.eval()(features.clone()) - wanted).square().sum()
    return float(off / (wanted - wanted.mean(0)).square().sum())


MAKES = [
    (separable, {"filters": 1}),
    (separable, {"filters": 2}),
    (low_rank_conv, {"rank": 0.5, "split": "channels"}),
    (low_rank_conv, {"rank": 0.5, "split": "space"}),
]


@pytest.mark.parametrize(("make", "options"), MAKES)
def test_a_fitted_factor_is_nearer_than_one_fitted_to_the_kernel(
    make: Any, options: dict[str, Any]
) -> None:
    part, features = basic(), pictures(16, examples=64)
    seen, unseen = features[:48], features[48:]
    fitted = make(copy.deepcopy(part), seen, **options)
    kernels = make(copy.deepcopy(part), seen[:4], **options)
    assert miss(part, fitted, unseen) < 0.7 * miss(part, kernels, unseen)
    inlet = Boundary((16, 8, 8))
    assert count_macs(fitted, inlet) < 0.7 * count_macs(part, inlet)
    again = make(copy.deepcopy(part), seen, **options)
    states = [each.state_dict() for each in (fitted, again, kernels)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert {k: v.shape for k, v in states[0].items()} == {k: v.shape for k, v in states[2].items()}


def layer_and(kernel: Tensor, **options: Any) -> nn.Module:
    conv = nn.Conv2d(kernel.shape[1], len(kernel), kernel.shape[2:], bias=True, **options)
    conv.weight = nn.Parameter(kernel)
    return nn.Sequential(conv, nn.ReLU())


def kernel_of(kind: str) -> Tensor:
    """Kernels (12, 8, 3, 3) that have an exact factorisation."""
    draw = lambda *shape: torch.randn(*shape, generator=torch.Generator().manual_seed(4))  # noqa: E731
    if kind == "separable":
        return draw(12, 8, 1, 1) * draw(1, 8, 3, 3)
    if kind == "channels":
        return torch.einsum("or,rcij->ocij", draw(12, 3), draw(3, 8, 3, 3))
    return torch.einsum("orj,rci->ocij", draw(12, 3, 3), draw(3, 8, 3))


@pytest.mark.parametrize(
    ("kind", "make", "options"),
    [
        ("separable", separable, {"filters": 1}),
        ("channels", low_rank_conv, {"rank": 3 / 8, "split": "channels"}),
        ("space", low_rank_conv, {"rank": 3 / 8, "split": "space"}),
    ],
)
@pytest.mark.parametrize(
    "shape",
    [
        {"padding": 1},
        {"padding": "same", "dilation": 2},
        {"stride": (2, 1), "padding": (0, 1), "padding_mode": "reflect"},
    ],
)
@pytest.mark.parametrize("examples", [32, 4])
def test_kernels_that_have_this_form_are_kept_exactly(
    kind: str, make: Any, options: dict[str, Any], shape: dict[str, Any], examples: int
) -> None:
    part = layer_and(kernel_of(kind), **shape)
    features = torch.randn(32, 8, 9, 8, generator=torch.Generator().manual_seed(5))
    made = make(copy.deepcopy(part), features[:examples], **options)
    assert isinstance(made[0], nn.Sequential) and miss(part, made, features) < 1e-5


def test_the_pointwise_part_is_least_squares_with_a_constant() -> None:
    part, features = layer_and(torch.randn(12, 8, 3, 3)), pictures(8)
    made = separable(copy.deepcopy(part), features, filters=1)
    with torch.no_grad():
        read = made[0][0](features).movedim(1, -1).flatten(0, -2)
        wanted = part[0](features).movedim(1, -1).flatten(0, -2)
        given = torch.cat([read, torch.ones_like(read[:, :1])], 1)
        best = given @ torch.linalg.lstsq(given, wanted).solution
        reached = made[0](features).movedim(1, -1).flatten(0, -2)
    least = (best - wanted).square().sum()
    assert (reached - wanted).square().sum() < 1.02 * least


def test_pointwise_and_linear_layers_are_split_by_channels_only() -> None:
    part = nn.Sequential(nn.Conv2d(16, 32, 1), nn.ReLU(), nn.Flatten(2), nn.Linear(64, 64))
    features = pictures(16)
    made = low_rank_conv(copy.deepcopy(part), features, rank=0.25, split="channels")
    assert [type(each) for each in made[0]] == [nn.Conv2d, nn.Conv2d]
    assert [type(each) for each in made[3]] == [nn.Linear, nn.Linear]
    assert made(features).shape == part(features).shape and miss(part, made, features) < 0.8
    with pytest.raises(TransformError, match="no k×k convolution without groups of it"):
        low_rank_conv(part, features, rank=0.25, split="space")


# Parts of torchvision's networks, and which blocks they have.
ALL = ("separable", "channels", "space")
PARTS: dict[str, tuple[Any, tuple[int, ...], tuple[str, ...]]] = {
    "basic": (lambda: vision.resnet18().layer2[0], (64, 8, 8), ALL),
    "bottleneck": (lambda: vision.resnet50().layer2[1], (512, 4, 4), ALL),
    "inverted": (lambda: vision.mobilenet_v2().features[4], (24, 16, 16), ("channels",)),
    "mbconv": (lambda: vision.efficientnet_b0().features[3][1], (40, 8, 8), ("channels",)),
    "convnext": (lambda: vision.convnext_tiny().features[1][0], (96, 8, 8), ("channels",)),
}


@pytest.mark.parametrize("name", list(PARTS))
def test_parts_of_known_networks_become_cheaper_and_export(name: str) -> None:
    make, shape, possible = PARTS[name]
    part, features = trained(make()), torch.randn(12, *shape)
    families = {
        "separable": (SeparableConv(), {"filters": 1}),
        "channels": (LowRankConv(), {"rank": 0.4, "split": "channels"}),
        "space": (LowRankConv(), {"rank": 0.4, "split": "space"}),
    }
    for kind, (family, values) in families.items():
        if kind not in possible:
            with pytest.raises(PairingError, match="becomes cheaper"):
                family.transform(copy.deepcopy(part), features, values)
            continue
        block = family.transform(copy.deepcopy(part), features, values).eval()
        assert count_macs(block, Boundary(shape)) < 0.9 * count_macs(part, Boundary(shape))
        with torch.no_grad():
            outputs = block(features.clone())
            assert outputs.isfinite().all() and outputs.shape == part(features.clone()).shape
            exported = torch.export.export(block, (features,)).module()
            torch.testing.assert_close(exported(features.clone()), outputs)


class ReadsAttributes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + self.conv.weight.mean()


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (separable, {"filters": 0}, "filters=0 is no number of kernels"),
        (separable, {"filters": 9}, "no k×k convolution of it becomes cheaper with filters=9"),
        (low_rank_conv, {"rank": 0.0, "split": "channels"}, "rank=0.0 is no share"),
        (low_rank_conv, {"rank": 0.99, "split": "channels"}, "no convolution or linear layer"),
        (low_rank_conv, {"rank": 2.0, "split": "space"}, "no k×k convolution"),
        (low_rank_conv, {"rank": 0.5, "split": "time"}, "split='time' is unknown; use 'channels'"),
    ],
)
def test_what_cannot_be_made_is_refused(make: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(TransformError, match=said):
        make(basic(), pictures(16), **options)


def test_a_part_that_reads_its_layers_attributes_is_refused() -> None:
    with pytest.raises(TransformError, match="ReadsAttributes does not run with factors"):
        separable(ReadsAttributes(), pictures(8), filters=1)
    with pytest.raises(TransformError, match="it is a single layer"):
        separable(nn.Conv2d(8, 8, 3), pictures(8), filters=1)

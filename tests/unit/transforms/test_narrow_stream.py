"""Parts between narrower boundaries: exact where channels are dead, near on data, else refused."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as vision
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from nas_theseus.errors import TransformError
from nas_theseus.guide.networks import ResNet
from nas_theseus.transforms.narrow_stream import inlet_volume, narrow_part
from tests.unit.transforms.test_fewer_channels import maps


def layer_of(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A part, and the width and size of its inlet."""
    torch.manual_seed(0)
    return {
        "basic": lambda: (ResNet((1, 1), 16).block1, (16, 8)),
        "stage entry": lambda: (ResNet((1, 1), 16).block2, (16, 8)),
        "bottleneck": lambda: (ResNet((1,), 8, bottleneck=True).block1, (8, 8)),
        "mbconv": lambda: (vision.efficientnet_b0().features[3][1], (40, 8)),
        "convnext": lambda: (vision.convnext_tiny().features[1][0], (96, 8)),
        "stem": lambda: (ResNet((1, 1), 16, channels=3).stem, (3, 16)),
        "head": lambda: (ResNet((1, 1), 16).head, (32, 4)),
    }[name]()


# Whether the part adds to its input, and its outlet's width.
PARTS = {
    "basic": (True, 16), "stage entry": (False, 32), "bottleneck": (False, 32),
    "mbconv": (True, 40), "convnext": (True, 96), "stem": (False, 16), "head": (False, 10),
}  # fmt: skip


def half(width: int) -> Tensor:
    return torch.arange(0, width, 2)


def sides(name: str) -> tuple[Tensor | None, Tensor | None]:
    """Half the channels of the stream; images and classes stay."""
    _, (width, _) = layer_of(name)
    inlet = None if name == "stem" else half(width)
    return inlet, None if name == "head" else half(PARTS[name][1])


def chosen(outputs: Tensor, channels: Tensor | None) -> Tensor:
    return outputs if channels is None else outputs.index_select(1, channels)


@torch.no_grad()
def miss(block: nn.Module, inputs: Tensor, wanted: Tensor) -> float:
    off = (block.eval()(inputs.clone()) - wanted).square().sum()
    return float(off / (wanted - wanted.mean(0)).square().sum())


@pytest.mark.parametrize("name", list(PARTS))
def test_known_parts_read_and_write_fewer_channels(name: str, trained: Any) -> None:
    part, (width, size) = layer_of(name)
    part = trained(part).eval()
    if hasattr(part, "layer_scale"):  # begins at 1e-6
        part.layer_scale.data.fill_(1.0)
    features = maps(width, size)
    inlet, outlet = sides(name)
    with torch.no_grad():
        wanted = chosen(part(features.clone()), outlet)
    found, narrow = narrow_part(copy.deepcopy(part), features[:32], inlet, outlet)
    assert torch.equal(narrow, chosen(features[:32], inlet))
    # Without examples the layers only lose channels; on unseen data that is further off.
    plain, _ = narrow_part(copy.deepcopy(part), features[:2], inlet, outlet)
    unseen = chosen(features[32:], inlet)
    reached = miss(found, unseen, wanted[32:])
    assert [p.shape for p in found.parameters()] == [p.shape for p in plain.parameters()]
    if inlet is None:
        assert reached < 1e-10  # nothing that is read has changed
    else:
        assert reached < min(0.6, 0.8 * miss(plain, unseen, wanted[32:]))


@pytest.mark.parametrize("name", ["basic", "stage entry", "mbconv", "head"])
def test_channels_that_are_dead_cost_nothing(name: str, trained: Any) -> None:
    part, (width, size) = layer_of(name)
    part = trained(part).eval()
    features = maps(width, size)
    inlet, outlet = sides(name)
    assert inlet is not None
    dead = torch.ones(width, dtype=torch.bool)
    dead[inlet] = False
    features[:, dead] = 0
    with torch.no_grad():
        wanted = chosen(part(features.clone()), outlet)
    found, narrow = narrow_part(part, features, inlet, outlet)
    with torch.no_grad():
        torch.testing.assert_close(found.eval()(narrow), wanted, rtol=1e-3, atol=1e-3)


def test_channels_that_are_there_twice_cost_nothing(trained: Any) -> None:
    part, _ = layer_of("stage entry")
    part = trained(part).eval()
    features = maps(16)
    features[:, 1::2] = 0.5 * features[:, ::2]
    with torch.no_grad():
        wanted = part(features.clone())
    found, _ = narrow_part(copy.deepcopy(part), features[:32], half(16), None)
    assert miss(found, features[32:, ::2], wanted[32:]) < 1e-3


class Concatenated(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(8, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.conv(x)], 1)


class Mixed(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return F.softmax(x, 1)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
        out: Tensor = self._conv_forward(x, weight, self.bias)
        return out


@pytest.mark.parametrize(
    ("part", "inlet", "outlet", "why"),
    [
        (ResNet((1,), 8).block1, [0, 1], [0, 2], "adds to its input"),
        (ResNet((1,), 8).block1, [0, 1], None, "adds to its input"),
        (ResNet((1,), 8).block1, None, [0, 1], "adds to its input"),
        (Concatenated(), [0, 1], [0, 1], "beside others"),
        (Mixed(), [0, 1], [0, 1], "softmax"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), [0, 1], None, "reads its input in groups"),
        (nn.Conv2d(8, 8, 3, padding=1, groups=2), None, [0, 1], "writes its output in groups"),
        (nn.GroupNorm(2, 8), [0, 1], [0, 1], "GroupNorm"),
        (nn.ConvTranspose2d(8, 8, 2, 2), [0, 1], None, "ConvTranspose2d, which cannot be refit"),
        (Standardised(8, 8, 1), [0, 1], None, "not with its own weight"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("examples", [2, 16])  # a space tries shapes alone, on two
def test_what_cannot_be_narrowed_is_refused(
    part: nn.Module, inlet: list[int] | None, outlet: list[int] | None, why: str, examples: int
) -> None:
    kept = [None if each is None else torch.tensor(each) for each in (inlet, outlet)]
    with pytest.raises(TransformError, match=why):
        narrow_part(part, maps(8)[:examples], *kept)


def test_inner_layers_that_cannot_be_refitted_stay_as_they_are() -> None:
    inner = nn.ConvTranspose2d(8, 8, 2, 2), nn.ReLU(), Standardised(8, 8, 1), nn.ReLU()
    part = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), *inner, nn.Conv2d(8, 8, 1))
    weight = part[4].weight.clone()
    narrowed, features = narrow_part(part, maps(8), torch.tensor([0, 1]), None)
    assert narrowed(features).shape[1] == 8
    assert torch.equal(narrowed.get_parameter("4.weight"), weight)


def test_parts_that_add_to_their_input_carry_its_channels() -> None:
    for name, (joined, _) in PARTS.items():
        part, (width, size) = layer_of(name)
        assert (inlet_volume(part, maps(width, size)[:2]).outlet is not None) == joined, name


def test_a_transformer_s_layer_is_refused_with_its_reason() -> None:
    layer = EncoderBlock(2, 8, 16, 0.0, 0.0, nn.LayerNorm)
    with pytest.raises(TransformError, match="stream of its input"):
        narrow_part(layer, torch.randn(16, 5, 8), half(8), half(8))

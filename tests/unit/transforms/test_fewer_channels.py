"""Parts with fewer inner channels: exact where channels cost nothing, near on data, cheaper."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as vision
from torch import Tensor, nn

from nas_theseus import Recipe, SearchSpace, choice, cut
from nas_theseus.blocks import Keep, LowRankConv, SeparableConv, SkipPart
from nas_theseus.costs import count_macs
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import PairingError, TransformError
from nas_theseus.guide.networks import ResNet
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import digits
from nas_theseus.transforms import FewerChannels
from nas_theseus.transforms.fewer_channels import fewer_channels
from nas_theseus.transforms.parts import shrunk
from nas_theseus.values.architecture import BlockChoice, Boundary


def maps(width: int, size: int = 8, examples: int = 48) -> Tensor:
    """Smooth maps with correlated channels, as networks have them."""
    generator = torch.Generator().manual_seed(2)
    hidden = F.avg_pool2d(torch.randn(examples, 12, size, size, generator=generator), 3, 1, 1)
    mixing = torch.randn(width, 12, generator=generator)
    noise = torch.randn(examples, width, size, size, generator=generator)
    return F.relu(2 * torch.einsum("oc,nchw->nohw", mixing, hidden) + 0.2 * noise)


@torch.no_grad()
def miss(part: nn.Module, block: nn.Module, features: Tensor) -> float:
    """Squared error of a block's outputs relative to their spread."""
    wanted = part.eval()(features.clone())
    off = (block.eval()(features.clone()) - wanted).square().sum()
    return float(off / (wanted - wanted.mean(0)).square().sum())


def library(name: str) -> Any:
    return pytest.importorskip(name)


PARTS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "own basic": (lambda: ResNet((1, 1), 16).block2, (16, 8, 8)),
    "own bottleneck": (lambda: ResNet((1,), 8, bottleneck=True).block1, (8, 8, 8)),
    "basic": (lambda: vision.resnet18().layer2[0], (64, 8, 8)),
    "stage": (lambda: vision.resnet18().layer1, (64, 8, 8)),
    "bottleneck": (lambda: vision.resnet50().layer2[1], (512, 4, 4)),
    "grouped": (lambda: vision.resnext50_32x4d().layer1[1], (256, 8, 8)),
    "inverted": (lambda: vision.mobilenet_v2().features[3], (24, 16, 16)),
    "mbconv": (lambda: vision.efficientnet_b0().features[3][1], (40, 8, 8)),
    "convnext": (lambda: vision.convnext_tiny().features[1][0], (96, 16, 16)),
    "timm": (lambda: library("timm").create_model("efficientnet_b0").blocks[2][1], (40, 8, 8)),
    "lite": (
        lambda: (
            library("efficientnet_lite_pytorch")
            .EfficientNet.from_name("efficientnet-lite0", image_size=64)
            ._blocks[3]  # pads by itself, at one side more than at the other
        ),
        (24, 16, 16),
    ),
    "shuffled": (lambda: vision.shufflenet_v2_x1_0().stage2[1], (116, 8, 8)),
}


def part_of(name: str, trained: Any) -> tuple[nn.Module, Tensor]:
    make, shape = PARTS[name]
    part = trained(make()).eval()
    for module in part.modules():
        if hasattr(module, "layer_scale"):  # begins at 1e-6
            module.layer_scale.data.fill_(1.0)
    return part, maps(shape[0], shape[1])


@pytest.mark.parametrize("name", list(PARTS))
def test_parts_of_known_networks(name: str, trained: Any) -> None:
    part, features = part_of(name, trained)
    inlet = Boundary(tuple(features.shape[1:]))
    seen, unseen = features[:32], features[32:]
    block = FewerChannels().transform(copy.deepcopy(part), seen, {"keep": 0.5})
    assert count_macs(block, inlet) < 0.6 * count_macs(part, inlet)
    reached = miss(part, block, unseen)
    assert reached < miss(part, shrunk(copy.deepcopy(part), seen, width=0.5), unseen)
    by_weight = fewer_channels(copy.deepcopy(part), seen[:4], keep=0.5)
    assert reached < miss(part, by_weight, unseen)
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (block, by_weight)]
    assert shapes[0] == shapes[1]
    with torch.no_grad():
        outputs = block(unseen.clone())
        assert outputs.isfinite().all() and outputs.shape == part(unseen.clone()).shape


@pytest.mark.parametrize("name", ["own basic", "inverted", "mbconv", "convnext"])
def test_blocks_export(name: str, trained: Any) -> None:
    part, features = part_of(name, trained)
    block = fewer_channels(part, features[:4], keep=0.5).eval()
    exported = torch.export.export(block, (features,)).module()
    with torch.no_grad():
        torch.testing.assert_close(exported(features.clone()), block(features.clone()))


@pytest.mark.parametrize("name", ["own basic", "inverted", "mbconv"])
def test_the_same_part_gives_the_same_block(name: str, trained: Any) -> None:
    part, features = part_of(name, trained)
    first, second = (fewer_channels(copy.deepcopy(part), features, keep=0.5) for _ in range(2))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_squeeze_excitation_follows_and_keeps_its_own_channels(trained: Any) -> None:
    part, features = part_of("mbconv", trained)
    block = fewer_channels(copy.deepcopy(part), features, keep=0.25)
    expand, depthwise, squeeze, project = block.block
    assert expand[0].out_channels == expand[1].num_features == 60
    assert depthwise[0].groups == depthwise[0].in_channels == depthwise[1].num_features == 60
    assert squeeze.fc1.weight.shape == (10, 60, 1, 1) and squeeze.fc2.weight.shape == (60, 10, 1, 1)
    assert project[0].weight.shape == (40, 60, 1, 1)


def test_groups_keep_equally_many(trained: Any) -> None:
    part, features = part_of("grouped", trained)
    block = fewer_channels(copy.deepcopy(part), features, keep=0.5)
    assert block.conv2.weight.shape == (64, 2, 3, 3) and block.conv2.groups == 32
    rows = part.conv2.weight.flatten(1)
    assert block.conv1.out_channels == block.conv3.in_channels == 64 < len(rows)


@pytest.mark.parametrize("name", ["own basic", "bottleneck", "inverted", "mbconv"])
def test_silent_channels_are_left_out_for_nothing(name: str, trained: Any) -> None:
    """Every second channel of the first layer is silenced behind its norm."""
    part, features = part_of(name, trained)
    norms = [m for m in part.modules() if isinstance(m, nn.BatchNorm2d)]
    inner = norms[:2] if name != "own basic" else norms[:1]
    with torch.no_grad():
        for norm in inner:
            norm.weight[::2] = 0
            norm.bias[::2] = 0
    block = fewer_channels(copy.deepcopy(part), features, keep=0.5)
    assert miss(part, block, features) < 1e-6


class Pointwise(nn.Module):
    """1×1 to 12 channels, norm, 1×1 with a norm or a bias behind it."""

    def __init__(self, bias: bool, norm: bool) -> None:
        super().__init__()
        self.up, self.norm = nn.Conv2d(6, 12, 1, bias=False), nn.BatchNorm2d(12)
        self.down = nn.Conv2d(12, 6, 1, bias=bias)
        self.after: nn.Module = nn.BatchNorm2d(6) if norm else nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.after(self.down(F.relu(self.norm(self.up(x)))))


@pytest.mark.parametrize(("bias", "norm"), [(True, False), (False, True), (True, True)])
def test_constant_channels_go_into_the_bias_or_the_norm_behind(
    bias: bool, norm: bool, trained: Any
) -> None:
    part = trained(Pointwise(bias, norm)).eval()
    with torch.no_grad():
        part.norm.weight[:6] = 0
        part.norm.bias[:6] = 3.0  # large, and the same everywhere
    block = fewer_channels(copy.deepcopy(part), maps(6), keep=0.5)
    torch.testing.assert_close(block.norm.weight, part.norm.weight[6:])
    assert miss(part, block, maps(6)) < 1e-6


def test_without_a_bias_or_norm_behind_constants_stay(trained: Any) -> None:
    part = trained(Pointwise(False, False)).eval()
    with torch.no_grad():
        part.norm.weight[:6] = 0
        part.norm.bias[:6] = 1.0
    block = fewer_channels(copy.deepcopy(part), maps(6), keep=7 / 12)
    assert int((block.norm.bias == 1.0).sum()) == 1  # it does the work of all six
    assert miss(part, block, maps(6)) < 0.01


@pytest.mark.parametrize("kernel", [1, 3])
def test_the_reader_is_least_squares_with_a_constant(kernel: int, trained: Any) -> None:
    part = trained(
        nn.Sequential(
            nn.Conv2d(6, 16, 1),
            nn.ReLU(),
            nn.Conv2d(16, 5, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(5),
        )
    ).eval()
    features = maps(6, examples=64)
    block = fewer_channels(copy.deepcopy(part), features, keep=0.5)
    with torch.no_grad():
        read = F.unfold(block[:2](features), kernel, padding=kernel // 2).transpose(1, 2)
        given = F.pad(read.flatten(0, 1), (0, 1), value=1.0)
        wanted = part[:3](features).movedim(1, -1).flatten(0, 2)
        best = given @ torch.linalg.lstsq(given, wanted).solution
        # What the block's norm makes of its outputs, in the scale of the part's.
        moved = block[3].running_mean - part[3].running_mean
        reached = block[:3](features).movedim(1, -1).flatten(0, 2) - moved
    least = (best - wanted).square().sum()
    assert (reached - wanted).square().sum() < 1.03 * least


def test_a_later_reader_makes_up_for_earlier_losses(trained: Any) -> None:
    """The second fit is to the unchanged part's outputs, not to those of the part so far."""
    part, features = part_of("bottleneck", trained)
    block = fewer_channels(copy.deepcopy(part), features, keep=0.3)
    with torch.no_grad():
        caught: list[Tensor] = []
        block.conv3.register_forward_hook(lambda _, given, gave: caught.extend((given[0], gave)))
        part.conv3.register_forward_hook(lambda _, given, gave: caught.append(gave))
        block(features.clone()), part(features.clone())
        read, reached, wanted = (each.movedim(1, -1).flatten(0, 2) for each in caught)
        reached = reached - (block.bn3.running_mean - part.bn3.running_mean)
        given = F.pad(read, (0, 1), value=1.0)
        best = given @ torch.linalg.lstsq(given, wanted).solution
    least = (best - wanted).square().sum()
    assert (reached - wanted).square().sum() < 1.1 * least


def test_with_few_positions_taps_and_then_channels_count_as_uncorrelated(trained: Any) -> None:
    part = trained(ResNet((1,), 32).block1).eval()
    many = maps(32, size=4, examples=128)
    unseen = many[96:]
    found = []
    for examples in (96, 12, 8, 7):  # 1536, 192, 128 and 112 positions for 288 inputs
        block = fewer_channels(copy.deepcopy(part), many[:examples], keep=0.5)
        found.append(miss(part, block, unseen))
    assert found[0] < found[1] < found[3]
    assert found[2] < found[3]
    tiny = maps(32, size=1, examples=16)  # fewer positions than channels
    assert fewer_channels(copy.deepcopy(part), tiny, keep=0.5)(tiny).isfinite().all()


class Stream(nn.Module):
    """A layer that reads and writes the same inner channels."""

    def __init__(self) -> None:
        super().__init__()
        self.into, self.out = nn.Conv2d(6, 16, 1), nn.Conv2d(16, 6, 3, padding=1)
        self.layer, self.norm = nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.into(x))
        return self.out(x + F.relu(self.norm(self.layer(x))))


def test_a_layer_may_read_the_channels_that_it_writes(trained: Any) -> None:
    part, features = trained(Stream()).eval(), maps(6, examples=96)
    seen, unseen = features[:64], features[64:]
    block = fewer_channels(copy.deepcopy(part), seen, keep=0.5)
    assert block.layer.weight.shape == (8, 8, 3, 3) and block.norm.num_features == 8
    narrow = shrunk(copy.deepcopy(part), seen, width=0.5)
    assert miss(part, block, unseen) < 0.7 * miss(part, narrow, unseen)


def test_a_parametrized_layer_is_left_out_and_others_are_narrowed(trained: Any) -> None:
    part = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(6, 8, 1)), nn.ReLU(), nn.Conv2d(8, 12, 1),
        nn.ReLU(), nn.Conv2d(12, 6, 1),
    )  # fmt: skip
    block = fewer_channels(part.eval(), maps(6), keep=0.5)
    assert [block[index].out_channels for index in (0, 2, 4)] == [8, 6, 6]


class Untouched(nn.Module):
    """The hidden channels are read by a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(6, 8, 2, 2), nn.ConvTranspose2d(8, 6, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(F.relu(self.down(x)))


@pytest.mark.parametrize(
    ("part", "options", "said"),
    [
        (ResNet((1,), 6).block1, {"keep": 1.0}, "keep=1.0 is not a share between 0 and 1"),
        (ResNet((1,), 6).block1, {"keep": 0.99}, "keeps all its inner channels; use a smaller"),
        (nn.Sequential(nn.Conv2d(6, 6, 3)), {"keep": 0.5}, "no hidden channels between its bound"),
        (
            Untouched(),
            {"keep": 0.5},
            "'up' reads channels that would be left out and is ConvTranspose2d",
        ),
    ],
    ids=["all", "rounds to all", "one layer", "transposed"],
)
def test_what_cannot_be_made_is_refused(part: nn.Module, options: Any, said: str) -> None:
    with pytest.raises(TransformError, match=said):
        fewer_channels(copy.deepcopy(part).eval(), maps(6), **options)


def test_a_part_whose_only_inner_channels_are_pooled_is_refused() -> None:
    part = vision.efficientnet_b0().features[1][0].eval()  # no expansion
    with pytest.raises(PairingError, match="'fewer_channels'.*those of pooled values"):
        FewerChannels().transform(part, maps(32, 16), {"keep": 0.5})


def test_pooled_channels_that_cost_much_are_left_out() -> None:
    part = nn.Sequential(
        nn.Conv2d(6, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 64), nn.ReLU(),
        nn.Linear(64, 64),
    )  # fmt: skip
    block = fewer_channels(copy.deepcopy(part), maps(6, examples=200), keep=0.5)
    assert [m.weight.shape[0] for m in block if hasattr(m, "weight")] == [2, 32, 64]


def test_a_space_offers_and_counts_blocks_made_of_convolutional_parts() -> None:
    torch.manual_seed(0)
    net = ResNet((2, 1), 8)
    families = [
        Keep(),
        FewerChannels(choice(0.75, 0.5)),
        SeparableConv(),
        LowRankConv(0.5, choice("channels", "space")),
        SkipPart(),
    ]
    space = SearchSpace(
        cut(net, net.cuts, (1, 8, 8)),
        digits(),
        [
            each.on("block1", "block2", "block3") if each.name != "keep" else each
            for each in families
        ],
        keep=["stem", "head"],
        recipe=Recipe(epochs=0.5),
    )
    assert mistakes_in(space) == []
    costs = CostTable(space)
    features = torch.randn(16, 8, 4, 4).relu()
    whole = costs.of_choice(BlockChoice(space.span(2, 3), "keep")).macs
    offered = {found.block: found for found in space.choices(space.span(2, 3))}
    assert set(offered) == {"keep", "fewer_channels", "separable_conv", "low_rank_conv", "skip"}
    for found in space.choices(space.span(2, 3)):
        if found.block != "keep":
            block = space.build(found, features=features)
            macs = costs.of_choice(found).macs
            assert macs == count_macs(block, space.boundary(2)) < 0.8 * whole
    assert "skip" not in {found.block for found in space.choices(space.span(3, 4))}

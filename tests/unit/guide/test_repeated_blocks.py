"""The blocks that networks repeat are found, and chains cut there compute what the networks do."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torchvision import models

from nas_theseus.errors import CutError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import cut
from nas_theseus.guide.repeated_blocks import channels_first, repeated_blocks

timm = pytest.importorskip("timm")

# Network, size, number of parts cut at blocks and at stages (None: one stage), and some names.
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, int, int | None, tuple[str, ...]]] = {
    "tv resnet18": (models.resnet18, 64, 10, 6, ("maxpool", "layer1.0", "layer4.1", "head")),
    "tv regnet": (models.regnet_y_400mf, 64, 18, 6, ("stem", "trunk_output.block1.block1-0")),
    "tv mobilenet v2": (models.mobilenet_v2, 64, 20, 10, ("features.0", "features.18")),
    "tv mobilenet v3": (models.mobilenet_v3_small, 64, 14, 8, ("features.0", "features.12")),
    "tv efficientnet": (models.efficientnet_b0, 64, 18, 9, ("features.0", "features.7.0")),
    "tv convnext": (models.convnext_tiny, 64, 23, 6, ("features.0", "features.2", "features.3.0")),
    "tv densenet": (
        models.densenet121,
        64,
        9,
        9,
        ("features.pool0", "features.denseblock1", "features.transition1"),
    ),
    "tv vit": (
        lambda: models.VisionTransformer(32, 8, 3, 2, 16, 32),
        32,
        5,
        None,
        ("encoder.dropout", "encoder.layers.encoder_layer_2"),
    ),
    "tv swin": (
        lambda: models.SwinTransformer([4, 4], 8, [1, 2], [2, 2], [4, 4]),
        64,
        6,
        4,
        ("features.0", "features.1.0", "features.2", "features.3.1"),
    ),
    **{
        f"timm {name}": (lambda name=name: timm.create_model(name), 64, *rest)  # type: ignore[misc]
        for name, *rest in (
            ("resnet18", 10, 6, ("maxpool", "layer1.0")),
            ("regnetx_002", 15, 6, ("stem", "s1.b1", "s4.b7")),
            ("mobilenetv2_050", 19, 9, ("blocks.0.0", "blocks.6.0")),
            ("mobilenetv3_small_050", 14, 7, ("blocks.0.0", "blocks.5.0")),
            ("efficientnet_lite0", 18, 9, ("bn1", "blocks.0.0", "blocks.6.0", "head")),
            ("convnext_atto", 17, 6, ("stem", "stages.1.downsample", "stages.3.blocks.1")),
            ("densenet121", 9, 9, ("features.denseblock4",)),
        )
    },
    **{
        f"timm {name}": (
            lambda name=name: timm.create_model(  # type: ignore[misc]
                name, img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2
            ),
            32,
            4,
            None,
            ("blocks.0", "blocks.1", "head"),
        )
        for name in ("vit_tiny_patch16_224", "deit_tiny_patch16_224")
    },
    "timm swin": (
        lambda: timm.create_model(
            "swin_tiny_patch4_window7_224",
            img_size=32,
            window_size=4,
            embed_dim=8,
            depths=(1, 2),
            num_heads=(1, 2),
        ),
        32,
        6,
        4,
        ("patch_embed", "layers.0.blocks.0", "layers.1.downsample", "layers.1.blocks.1"),
    ),
}


def outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found: Tensor = network.eval()(inputs)
    return found


@pytest.mark.parametrize("which", NETWORKS)
def test_a_network_is_cut_at_its_blocks_and_stages(which: str) -> None:
    make, size, blocks, stages, names = NETWORKS[which]
    torch.manual_seed(0)
    network = make()
    inputs = torch.randn(2, 3, size, size)
    expected = outputs(network, inputs)
    guide = channels_first(cut(network, repeated_blocks(network, (3, size, size)), (3, size, size)))
    assert len(guide) == blocks
    assert set(names) <= set(guide.names)
    assert torch.allclose(outputs(guide, inputs), expected, rtol=1e-5, atol=1e-6)
    for boundary in guide.boundaries[1:-1]:
        if len(boundary.shape) == 3:  # maps are (C, H, W), those of Swin too
            assert boundary.shape[1] == boundary.shape[2] <= size // 2
    if stages is None:
        with pytest.raises(CutError, match="has one stage only.*use at='blocks'"):
            repeated_blocks(network, (3, size, size), "stages")
        return
    at = repeated_blocks(network, (3, size, size), "stages")
    assert len(at) + 1 == stages
    assert set(at) <= set(guide.names)
    shapes = [guide.boundaries[1 + guide.names.index(name)].shape for name in at]
    # What is before the first block may have the first stage's shape.
    assert all(one != other for one, other in itertools.pairwise(shapes[1:]))


def test_turned_maps_are_those_of_the_network() -> None:
    torch.manual_seed(0)
    network = models.SwinTransformer([4, 4], 8, [1, 1], [2, 2], [4, 4])
    inputs = torch.randn(2, 3, 32, 32)
    at = repeated_blocks(network, (3, 32, 32))
    plain = cut(network, at, (3, 32, 32)).eval()
    found = {i: f for i, f in plain.features(inputs, range(len(plain))).items()}
    turned = channels_first(cut(network, at, (3, 32, 32))).eval()
    assert [b.shape for b in plain.boundaries[1:3]] == [(8, 8, 8), (8, 8, 8)]  # cannot be told
    assert turned.boundaries[3].shape == (16, 4, 4) != plain.boundaries[3].shape
    ours = turned.features(inputs, range(len(turned)))
    assert torch.allclose(ours[3], found[3].permute(0, 3, 1, 2))


def test_a_guide_of_maps_is_left_as_it_is() -> None:
    network = models.resnet18()
    guide = cut(network, ["layer1.0", "layer2.0"], (3, 32, 32))
    assert channels_first(guide) is guide


class Flat(nn.Module):
    """A network without blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2))

    def forward(self, inputs: Tensor) -> Tensor:
        found: Tensor = self.body(inputs)
        return found


def test_networks_without_blocks_and_unknown_cuts_are_refused() -> None:
    flat = Flat()
    flat(torch.zeros(1, 3, 8, 8))
    with pytest.raises(CutError, match="Flat repeats no block.*cut_points"):
        repeated_blocks(flat, (3, 8, 8))
    with pytest.raises(CutError, match="at is 'blocks' or 'stages', not 'layers'"):
        repeated_blocks(flat, (3, 8, 8), "layers")  # type: ignore[arg-type]
    with pytest.raises(CutError, match="does the network take inputs of this shape"):
        repeated_blocks(models.resnet18(), (1, 32, 32))


def test_the_last_block_may_be_the_end() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.map = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return x + self.map(x)

    network = nn.Sequential(*(Block() for _ in range(3)))
    assert repeated_blocks(network, (4,)) == ["0", "1"]
    assert isinstance(cut(network, ["0", "1"], (4,)), Guide)

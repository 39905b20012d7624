"""Guides of torchvision, timm and Hugging Face folders: weights, preprocessing, refusals."""

from __future__ import annotations

import json
import sys
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import models

from nas_theseus.errors import CutError, GuideError
from nas_theseus.guide.vision import vision_guide
from nas_theseus.guide.weights import rebuilding
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.values.registers import SOURCES

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

TINY = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_labels": 5}


def picture(width: int = 90, height: int = 70) -> Image.Image:
    """Noise over a slope, so that every kind of resizing gives other pixels."""
    random = np.random.RandomState(0)
    slope = np.linspace(0, 200, width)[None, :, None] + np.zeros((height, 1, 3))
    return Image.fromarray((slope + random.randint(0, 55, slope.shape)).astype(np.uint8))


def prepared(preprocessing: Preprocessing) -> Tensor:
    mean, std = (torch.tensor(x).reshape(-1, 1, 1) for x in preprocessing.statistics)
    return (preprocessing.pixels(picture()).float() - mean) / std


def logits(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.no_grad():
        found = network.eval()(inputs)
    return found if isinstance(found, Tensor) else found.logits


def resnet_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "resnet"
    config = transformers.ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16], depths=[2, 1], layer_type="basic", num_labels=5
    )
    torch.manual_seed(0)
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    transformers.ConvNextImageProcessor(size={"shortest_edge": 32}).save_pretrained(folder)
    return folder


def vit_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "vit"
    config = transformers.ViTConfig(**TINY, intermediate_size=32, image_size=32, patch_size=8)
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def test_weights_of_torchvision_are_taken_from_its_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    torch.manual_seed(0)
    network = models.resnet18()
    cached = tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth"
    cached.parent.mkdir(parents=True)
    torch.save(network.state_dict(), cached)
    inputs = torch.randn(2, 3, 64, 64)
    for weights in ("default", "IMAGENET1K_V1"):
        guide = vision_guide("torchvision:resnet18", weights=weights, size=64)
        assert torch.allclose(logits(guide, inputs), logits(network, inputs), atol=1e-5)
        assert guide.weights_from == "torchvision:resnet18 IMAGENET1K_V1"
    assert len(vision_guide("torchvision:resnet18", at="stages", size=64)) == 6
    cached.unlink()
    with rebuilding():  # found networks bring their own weights
        assert len(vision_guide("torchvision:resnet18", size=64)) == 10


def test_without_a_network_the_remedy_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    # urllib keeps its first opener with the proxies of that moment: a new one here, none after it.
    monkeypatch.setattr(urllib.request, "_opener", None)
    for scheme in ("http", "https"):
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")  # refuses at once
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(GuideError, match=r"IMAGENET1K_V1 of torchvision's resnet18 .*put it at .*"):
        vision_guide("torchvision:resnet18")
    with pytest.raises(GuideError, match=r"of timm's resnet18.*cache of huggingface_hub.*weights="):
        vision_guide("timm:resnet18")


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_weights_may_be_in_a_file(tmp_path: Path, kind: str) -> None:
    torch.manual_seed(0)
    network = timm.create_model("resnet10t")
    path = tmp_path / f"weights.{kind}"
    if kind == "pth":
        torch.save({"state_dict": network.state_dict()}, path)
    else:
        safetensors.torch.save_file(network.state_dict(), path)
    guide = vision_guide("timm:resnet10t", weights=str(path), size=64)
    inputs = torch.randn(2, 3, 64, 64)
    assert torch.allclose(logits(guide, inputs), logits(network, inputs), atol=1e-5)
    assert guide.weights_from == path.name
    with pytest.raises(GuideError, match="does not exist"):
        vision_guide("timm:resnet10t", weights=tmp_path / "other.pth", size=64)
    with pytest.raises(GuideError, match="do not fit ResNet"):
        vision_guide("timm:resnet18", weights=path, size=64)


def test_preprocessing_is_that_of_torchvision() -> None:
    for name in ("swin_t", "resnet50", "efficientnet_b0"):
        found = SOURCES["torchvision"](name, None, None).preprocessing
        expected = models.get_model_weights(name).DEFAULT.transforms()(picture())
        assert torch.allclose(prepared(found), expected, atol=1e-4)
    smaller = SOURCES["torchvision"]("resnet50", None, 112).preprocessing
    assert (smaller.size, smaller.resize) == (112, 116)


@pytest.mark.parametrize(
    "name",
    ["resnet10t", "vit_tiny_patch16_224", "tf_efficientnet_lite0", "vit_base_patch16_clip_224"],
)
def test_preprocessing_is_that_of_timm(name: str) -> None:
    from nas_theseus.guide.sources.timm import _preprocessing

    config = timm.data.resolve_data_config(
        {}, pretrained_cfg=timm.models.get_pretrained_cfg(name).to_dict()
    )
    found = _preprocessing(config, name)
    assert found is not None
    expected = timm.data.create_transform(**config)(picture())
    assert torch.allclose(prepared(found), expected, atol=1e-4)
    assert _preprocessing({**config, "crop_mode": "border"}, name) is None
    squashed = {**config, "crop_mode": "squash", "crop_pct": 0.9}
    found = _preprocessing(squashed, name)
    assert found is not None
    expected = timm.data.create_transform(**squashed)(picture())
    assert torch.allclose(prepared(found), expected, atol=1e-4)


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("ViTImageProcessor", {"size": {"height": 40, "width": 40}}),
    "convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 48}, "crop_pct": 0.8}),
    "large convnext": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "clip": (
        "CLIPImageProcessor",
        {"size": {"shortest_edge": 50}, "crop_size": {"height": 40, "width": 40}},
    ),
    "unscaled": ("ViTImageProcessor", {"size": {"height": 40, "width": 40}, "do_normalize": False}),
    "symmetric": ("ViTImageProcessor", {"rescale_factor": 1 / 127.5, "image_mean": [1, 1, 1]}),
}


@pytest.mark.parametrize("which", PROCESSORS)
def test_preprocessing_is_that_of_transformers(which: str) -> None:
    from nas_theseus.guide.sources.hf import of_image_processor

    name, options = PROCESSORS[which]
    processor = getattr(transformers, name)(**options)
    found = of_image_processor(processor)
    assert found is not None
    expected = processor(picture(), return_tensors="pt")["pixel_values"][0]
    difference = (prepared(found) - expected).abs()
    # Resizing of tensors rounds otherwise than that of pictures, by two bytes at most.
    assert difference.max() <= 2.01 / (255 * min(found.std))
    assert difference.mean() <= 0.3 / (255 * min(found.std))


def test_preprocessing_that_cannot_be_said_is_none() -> None:
    from nas_theseus.guide.sources.hf import of_image_processor

    for name, options in (
        ("ViTImageProcessor", {"size": {"height": 40, "width": 50}}),
        ("ViTImageProcessor", {"do_resize": False}),
        ("CLIPImageProcessor", {"do_center_crop": False, "size": {"shortest_edge": 50}}),
        ("EfficientNetImageProcessor", {"rescale_offset": True}),
    ):
        assert of_image_processor(getattr(transformers, name)(**options)) is None, name


def test_folders_of_hugging_face_are_cut_and_compute_the_same(tmp_path: Path) -> None:
    inputs = torch.randn(2, 3, 32, 32)
    folder = resnet_folder(tmp_path)
    own = transformers.AutoModelForImageClassification.from_pretrained(folder)
    guide = vision_guide(f"hf:{folder}")
    assert torch.allclose(logits(guide, inputs), logits(own, inputs), atol=1e-5)
    assert len(guide) == 5  # embedder, three blocks, head
    assert guide.preprocessing.size == 32
    assert guide.preprocessing.resize == int(32 / (224 / 256))
    assert guide.weights_from == "hf:resnet"
    folder = vit_folder(tmp_path)
    own = transformers.AutoModelForImageClassification.from_pretrained(folder)
    for at, names in (
        ("blocks", ("embed", "layer0", "layer1", "head")),
        ("sublayers", ("embed", "attention0", "mlp0", "attention1", "mlp1", "head")),
    ):
        guide = vision_guide(f"hf:{folder}", at=at)  # type: ignore[arg-type]
        assert guide.names == names
        assert torch.allclose(logits(guide, inputs), logits(own, inputs), atol=1e-5)
    assert guide.preprocessing.squash
    with pytest.raises(CutError, match="one stage only"):
        vision_guide(f"hf:{folder}", at="stages")
    with pytest.raises(CutError, match=r"takes inputs .* but preprocessing gives \(3, 48, 48\)"):
        vision_guide(f"hf:{folder}", size=48)


FOLDERS: dict[str, tuple[dict[str, Any], int]] = {
    "ConvNext": ({"hidden_sizes": [8, 16], "depths": [2, 2], "num_stages": 2}, 7),
    "RegNet": (
        {"hidden_sizes": [8, 16], "depths": [1, 2], "embedding_size": 8, "groups_width": 4},
        5,
    ),
    "MobileNetV2": ({"depth_multiplier": 0.35}, 18),
}


@pytest.mark.parametrize("family", FOLDERS)
def test_families_of_hugging_face_are_cut_at_their_blocks(family: str, tmp_path: Path) -> None:
    options, parts = FOLDERS[family]
    config = getattr(transformers, f"{family}Config")(**options, num_labels=5)
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForImageClassification")(config).save_pretrained(tmp_path)
    own = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    inputs = torch.randn(2, 3, 32, 32)
    guide = vision_guide(f"hf:{tmp_path}", preprocessing=Preprocessing(32, 32))
    assert len(guide) == parts
    assert torch.allclose(logits(guide, inputs), logits(own, inputs), atol=1e-5)


def test_weights_of_a_folder_may_be_others_or_random(tmp_path: Path) -> None:
    folder = resnet_folder(tmp_path)
    torch.manual_seed(1)
    config = transformers.AutoConfig.from_pretrained(folder)
    other = transformers.AutoModelForImageClassification.from_config(config)
    torch.save(other.state_dict(), tmp_path / "other.pt")
    inputs = torch.randn(2, 3, 32, 32)
    guide = vision_guide(f"hf:{folder}", weights=tmp_path / "other.pt")
    assert torch.allclose(logits(guide, inputs), logits(other, inputs), atol=1e-5)
    assert vision_guide(f"hf:{folder}", weights=None).weights_from is None
    with pytest.raises(GuideError, match="those in it"):
        vision_guide(f"hf:{folder}", weights="IMAGENET1K_V1")


def test_damaged_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(GuideError, match="has no config.json"):
        vision_guide(f"hf:{tmp_path}")
    folder = resnet_folder(tmp_path)
    (folder / "preprocessor_config.json").write_text("{")
    with pytest.raises(GuideError, match="preprocessor_config.json in .* cannot be read"):
        vision_guide(f"hf:{folder}")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(GuideError, match="not known; give preprocessing="):
        vision_guide(f"hf:{folder}")
    given = Preprocessing(32, 32)
    assert vision_guide(f"hf:{folder}", preprocessing=given).preprocessing == given
    state = safetensors.torch.load_file(folder / "model.safetensors")
    state.pop(next(iter(state)))
    safetensors.torch.save_file(state, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(GuideError, match="lacks tensors of the model"):
        vision_guide(f"hf:{folder}", preprocessing=given)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "llama"}))
    with pytest.raises(GuideError, match="cannot be read as an image classifier"):
        vision_guide(f"hf:{folder}", preprocessing=given)


def test_vits_of_another_size_are_interpolated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guide = vision_guide("timm:vit_tiny_patch16_224", weights=None, size=64)
    assert guide.boundaries[1].shape == (17, 192)
    from nas_theseus.guide.sources import torchvision

    own = models.VisionTransformer(64, 16, 1, 2, 16, 32)
    monkeypatch.setattr(
        models,
        "get_model",
        lambda name, weights, image_size=64: (
            own if image_size == 64 else models.VisionTransformer(image_size, 16, 1, 2, 16, 32)
        ),
    )
    found: Any = torchvision._model("vit_b_16", None, 96)
    assert found.image_size == 96
    assert torch.equal(found.encoder.pos_embedding[:, 0], own.encoder.pos_embedding[:, 0])
    assert torch.equal(found.heads.head.weight, own.heads.head.weight)
    assert torchvision._model("vit_b_16", None, 64) is own


def test_a_module_is_cut_with_its_own_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = models.resnet18()
    inputs = torch.randn(2, 3, 64, 64)
    guide = vision_guide(network, preprocessing=Preprocessing(224, 256), size=64)
    assert torch.equal(logits(guide, inputs), logits(network, inputs))
    assert guide.preprocessing == Preprocessing(64, 73)
    assert guide.boundaries[0].shape == (3, 64, 64)
    with pytest.raises(GuideError, match="the module ResNet expects of pictures is not known"):
        vision_guide(network)
    with pytest.raises(GuideError, match="a name, which a ResNet does not know"):
        vision_guide(network, weights="IMAGENET1K_V1", preprocessing=Preprocessing(224, 256))


def test_unknown_names_are_refused_with_what_is_known() -> None:
    for given, said in (
        ("resnet18", "'hf:FOLDER' or 'timm:NAME' or 'torchvision:NAME'"),
        ("keras:resnet18", "is no network"),
        ("timm:", "is no network"),
        ("torchvision:resnet81", "torchvision has no network .* similar: .*resnet18"),
        ("torchvision:fasterrcnn_resnet50_fpn", "torchvision has no network"),
        ("timm:resnet81", "timm has no network .* similar: .*resnet18"),
        ("timm:resnet18.nothing", "no weights 'nothing'; use .*'a1_in1k'"),
    ):
        with pytest.raises(GuideError, match=said):
            vision_guide(given)
    with pytest.raises(GuideError, match="no weights 'IMAGENET21K'; use IMAGENET1K_V1"):
        vision_guide("torchvision:resnet18", weights="IMAGENET21K")
    with pytest.raises(GuideError, match="no weights 'nothing'"):
        vision_guide("timm:resnet18", weights="nothing")
    with pytest.raises(CutError, match="at is 'blocks', 'stages', 'sublayers', not 'layers'"):
        vision_guide("torchvision:resnet18", at="layers")  # type: ignore[arg-type]
    with pytest.raises(CutError, match="'sublayers' is for ViTs of Hugging Face folders"):
        vision_guide("torchvision:resnet18", at="sublayers", weights=None, size=64)


@pytest.mark.parametrize("package", ["timm", "transformers"])
def test_a_package_that_is_missing_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    source = {"timm": "timm:resnet18", "transformers": "hf:folder"}[package]
    with pytest.raises(
        GuideError, match=rf"package {package}: pip install 'nas-theseus\[guides\]'"
    ):
        vision_guide(source)

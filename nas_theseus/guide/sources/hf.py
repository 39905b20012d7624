"""Folders of Hugging Face image classifiers, as ``save_pretrained`` writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.errors import CutError, GuideError, TheseusError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.huggingface import (
    Granularity,
    huggingface_guide,
    refuse_other_tensors,
    transformers_package,
)
from nas_theseus.guide.vision_source import DEFAULT, At, Loaded
from nas_theseus.storage.json_files import MALFORMED
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.values.registers import FAMILIES

_INTERPOLATIONS = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# From this size on, ConvNeXt's pictures are squashed; transformers, image_processing_convnext.
_CONVNEXT_SQUASHES = 384


class LogitsOf(nn.Module):
    """A model of transformers as a map from pictures (B, C, H, W) to logits (B, classes)."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.model(pixel_values=inputs).logits
        return logits


def load(name: str, weights: str | None, size: int | None) -> Loaded:
    """A classifier of a folder, with the folder's weights or random ones."""
    folder = Path(name).expanduser()
    transformers = transformers_package()
    if weights not in (None, DEFAULT):
        raise GuideError(
            f"the weights of {folder} are those in it; leave weights= out, or give the path of a "
            f"file, not {weights!r}"
        )
    if not (folder / "config.json").is_file():
        raise GuideError(f"{folder} has no config.json; give a folder as save_pretrained writes it")
    model = _model(transformers, folder, weights)
    preprocessing = _preprocessing(transformers, folder)
    if preprocessing is not None and size is not None:
        preprocessing = preprocessing.at_size(size)
    said = None if weights is None else f"hf:{folder.name}"
    kind = model.config.model_type
    if any(kind in FAMILIES[family].model_types for family in FAMILIES):
        return Loaded(model, preprocessing, said, lambda at: _known(model, at))
    return Loaded(LogitsOf(model), preprocessing, said, inner=model)


def _model(transformers: Any, folder: Path, weights: str | None) -> Any:
    kind = transformers.AutoModelForImageClassification
    try:
        if weights is None:
            config = transformers.AutoConfig.from_pretrained(str(folder), local_files_only=True)
            return kind.from_config(config)
        model, told = kind.from_pretrained(
            str(folder),
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by their names
        )
    except Exception as error:  # transformers raises many kinds for files that it cannot read
        said = " ".join(str(error).split())[:300]
        raise GuideError(
            f"{folder} cannot be read as an image classifier: {type(error).__name__}: {said}"
        ) from error
    refuse_other_tensors(folder, told)
    return model


def _known(model: nn.Module, at: At) -> Guide:
    """A guide of a model whose sublayers are known."""
    if at == "stages":
        raise CutError(
            f"{type(model).__name__} has one stage only: its features have one shape from the "
            "first block to the last; use at='blocks' or at='sublayers'"
        )
    granularity: Granularity = "layer" if at == "blocks" else "sublayer"
    return huggingface_guide(model, granularity=granularity)


def _preprocessing(transformers: Any, folder: Path) -> Preprocessing | None:
    """What a folder's image processor does; None if there is none or it does something else."""
    if not (folder / "preprocessor_config.json").is_file():
        return None
    try:
        found = transformers.AutoImageProcessor.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # a damaged or foreign file
        said = " ".join(str(error).split())[:300]
        raise GuideError(f"preprocessor_config.json in {folder} cannot be read: {said}") from error
    try:
        return of_image_processor(found)
    except TheseusError:
        raise
    except MALFORMED as error:  # its values are not checked by transformers
        raise GuideError(
            f"preprocessor_config.json in {folder} has values that are no preprocessing: {error}"
        ) from error


def of_image_processor(processor: Any) -> Preprocessing | None:
    """What an image processor of transformers does; None if `Preprocessing` cannot say it."""

    def setting(name: str, default: Any = None) -> Any:
        value = getattr(processor, name, None)
        return default if value is None else value

    sides = _sides(setting)
    if sides is None or not setting("do_resize", True) or setting("rescale_offset", False):
        return None
    scale = 255 * (setting("rescale_factor", 1 / 255) if setting("do_rescale", True) else 1)
    mean, std = (0.0,) * 3, (1.0,) * 3
    if setting("do_normalize", True):
        mean, std = tuple(setting("image_mean", mean)), tuple(setting("image_std", std))
    size, resize, squash = sides
    interpolation: Any = _INTERPOLATIONS[int(setting("resample", 2))]
    return Preprocessing(
        size,
        resize,
        tuple(x / scale for x in mean),
        tuple(x / scale for x in std),
        interpolation,
        squash,
    )


def _sides(setting: Any) -> tuple[int, int, bool] | None:
    """Size, what is resized to, and whether both sides are."""
    sizes, crops = setting("size", {}), setting("crop_size", {})
    crop = _square(crops) if setting("do_center_crop", False) else None
    if (both := _square(sizes)) is not None:
        return (crop or both, both, True) if (crop or both) <= both else None
    shortest = sizes.get("shortest_edge")
    if shortest is None:
        return None
    if (share := setting("crop_pct")) is not None:  # ConvNeXt's
        if shortest < _CONVNEXT_SQUASHES:
            return shortest, int(shortest / share), False
        return shortest, shortest, True
    return (crop, shortest, False) if crop is not None and crop <= shortest else None


def _square(sizes: Any) -> int | None:
    height, width = sizes.get("height"), sizes.get("width")
    return int(height) if height is not None and height == width else None


MEMBER = load

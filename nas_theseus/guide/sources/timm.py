"""Networks of timm, by their names with or without a tag (``convnext_tiny.in12k_ft_in1k``)."""

from __future__ import annotations

import importlib
import math
from typing import Any

from nas_theseus.errors import GuideError
from nas_theseus.guide.vision_source import DEFAULT, Loaded, not_loaded, unknown_name
from nas_theseus.tasks.preprocessing import Preprocessing


def load(name: str, weights: str | None, size: int | None) -> Loaded:
    """A network with its pretrained weights, or those of another tag of timm's."""
    timm = _timm()
    plain, _, tag = name.partition(".")
    if not timm.is_model(plain):
        raise unknown_name("timm", plain, timm.list_models())
    if weights is not None and weights != DEFAULT:
        tag = weights
    full = f"{plain}.{tag}" if tag else plain
    known = [each.partition(".")[2] for each in timm.list_pretrained(f"{plain}.*")]
    if (tag and tag not in known) or (weights is not None and not known):
        raise GuideError(
            f"timm's {plain} has no weights {tag or weights!r}; use "
            f"{', '.join(map(repr, known)) + ', ' if known else ''}the path of a file, or None for "
            "random weights"
        )
    config = timm.models.get_pretrained_cfg(full)
    options = {}
    if size is not None and getattr(config, "fixed_input_size", False):
        options["img_size"] = size
    try:
        model = timm.create_model(full, pretrained=weights is not None, **options)
    except Exception as error:  # huggingface_hub raises many kinds where there is no network
        if weights is None:
            raise GuideError(f"timm cannot make {full}: {error}") from error
        raise not_loaded(
            f"of timm's {full}",
            f"Load timm.create_model({full!r}, pretrained=True) where there is a network, and copy "
            "the cache of huggingface_hub (HF_HOME) here",
            error,
        ) from error
    found = _preprocessing(timm.data.resolve_data_config({}, model=model), full)
    if found is not None and size is not None:
        found = found.at_size(size)
    return Loaded(model, found, None if weights is None else f"timm:{full}")


def _preprocessing(config: dict[str, Any], name: str) -> Preprocessing | None:
    """What weights expect; None where it is something that `Preprocessing` does not do."""
    _, height, width = config["input_size"]
    if height != width or config["crop_mode"] not in ("center", "squash"):
        return None
    return Preprocessing(
        height,
        math.floor(height / config["crop_pct"]),
        tuple(config["mean"]),
        tuple(config["std"]),
        config["interpolation"],
        squash=config["crop_mode"] == "squash",
    )


def _timm() -> Any:
    try:
        return importlib.import_module("timm")
    except ImportError as error:
        raise GuideError(
            "networks of timm need the package timm: pip install 'nas-theseus[guides]'"
        ) from error


MEMBER = load

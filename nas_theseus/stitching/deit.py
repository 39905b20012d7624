"""DeiT-Ti, DeiT-S and DeiT-B of timm as anchors of a stitchable network."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

from nas_theseus.errors import GuideError
from nas_theseus.guide.cut import cut
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.tasks import Task

SIZES = ("tiny", "small", "base")


def deit_anchors(weights: Mapping[str, str | Path | None], task: Task) -> list[Anchor]:
    """DeiTs of several sizes, cut after the embedding and every layer.

    Args:
        weights: by size (tiny, small, base), a file with the state dict of timm's
            ``deit_SIZE_patch16_224`` as safetensors or a weights-only checkpoint; None for random
            weights.
        task: task with images (C, H, W) whose sides are multiples of 16, and with as many classes
            as the weights.

    Raises:
        GuideError: timm is not installed, a size is unknown, or weights are missing, damaged or
            from another network, such as one for other images or classes.
        CutError: the images do not fit.

    Source: Pan et al. 2023, section 4.1 (the anchors); Touvron et al. 2021, arXiv:2012.12877.
    """
    if unknown := [size for size in weights if size not in SIZES]:
        raise GuideError(f"unknown DeiT size {unknown[0]!r}; available: {', '.join(SIZES)}")
    try:
        # An optional package that takes seconds to import.
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise GuideError(
            "DeiTs need timm, which is not installed: pip install 'nas-theseus[guides]'"
        ) from error
    channels, *sides = task.inlet.shape
    anchors = []
    for size, path in weights.items():
        network = timm.create_model(
            f"deit_{size}_patch16_224",
            img_size=tuple(sides),
            in_chans=channels,
            num_classes=task.outputs.width,
        )
        layers = [f"blocks.{layer}" for layer in range(len(network.blocks))]
        # The last layer is named by the whole sequence, since nothing else of it runs after it.
        at = ["pos_drop", *layers[:-1], "blocks"]
        guide = cut(network, at, task.inlet.shape, weights=path)
        anchors.append(Anchor(f"deit-{size}", guide, task))
    return anchors

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
    """DeiTs of several sizes, cut behind the embedding and every layer.

    Args:
        weights: by size (tiny, small, base), the state dict of timm's ``deit_SIZE_patch16_224``
            as safetensors or a weights-only checkpoint; None for random weights.
        task: with images (C, H, W) of sides that 16 divides, and as many classes as the weights.

    Raises:
        GuideError: timm is missing, a size is unknown, or the weights are missing, damaged or of
            another network, such as one for other images or classes.
        CutError: the images do not fit.

    Source: Pan et al. 2023, section 4.1 (the anchors); Touvron et al. 2021, arXiv:2012.12877.
    """
    if unknown := [size for size in weights if size not in SIZES]:
        raise GuideError(f"no DeiT of size {unknown[0]!r}: there are {', '.join(SIZES)}")
    try:
        # An optional package that takes seconds to import.
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise GuideError(
            "DeiTs are timm's, which is not installed: pip install 'nas-theseus[guides]'"
        ) from error
    channels, *sides = task.inlet.shape
    anchors = []
    for size, path in weights.items():
        network = timm.create_model(
            f"deit_{size}_patch16_224",
            img_size=tuple(sides), in_chans=channels, num_classes=task.outputs.width,
        )  # fmt: skip
        layers = [f"blocks.{layer}" for layer in range(len(network.blocks))]
        # The last is called by the whole, behind which nothing else runs.
        at = ["pos_drop", *layers[:-1], "blocks"]
        guide = cut(network, at, task.inlet.shape, weights=path)
        anchors.append(Anchor(f"deit-{size}", guide, task))
    return anchors

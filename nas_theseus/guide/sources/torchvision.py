"""Networks of torchvision, by the names of ``torchvision.models``; weights by their enums."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

import torch
from torch import nn

from nas_theseus.errors import GuideError
from nas_theseus.guide.vision_source import DEFAULT, Loaded, not_loaded, unknown_name
from nas_theseus.tasks.preprocessing import Preprocessing


def load(name: str, weights: str | None, size: int | None) -> Loaded:
    """A network with weights such as ``IMAGENET1K_V1``; ViTs of other sizes are interpolated."""
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise unknown_name("torchvision", name, known)
    kinds = models.get_model_weights(name)
    chosen = None
    if weights is not None:
        names = [kind.name for kind in kinds]
        if weights != DEFAULT and weights not in names:
            raise GuideError(
                f"torchvision's {name} has no weights {weights!r}; use {' or '.join(names)}, "
                "'default', the path of a file, or None for random weights"
            )
        chosen = kinds.DEFAULT if weights == DEFAULT else kinds[weights]
    preprocessing = _preprocessing((chosen or kinds.DEFAULT).transforms())
    if size is not None:
        preprocessing = preprocessing.at_size(size)
    model = _model(name, chosen, preprocessing.size)
    said = None if chosen is None else f"torchvision:{name} {chosen.name}"
    return Loaded(model, preprocessing, said)


def _model(name: str, chosen: Any, size: int) -> nn.Module:
    from torchvision.models import get_model

    try:
        model: nn.Module = get_model(name, weights=chosen)
    except (OSError, RuntimeError) as error:  # no network, or a damaged file
        file = PurePosixPath(chosen.url).name
        raise not_loaded(
            f"{chosen.name} of torchvision's {name}",
            f"Download {chosen.url} where there is a network, and put it at "
            f"{torch.hub.get_dir()}/checkpoints/{file}",
            error,
        ) from error
    if getattr(model, "image_size", size) == size:
        return model
    # Only ViTs have an image size of their own.
    from torchvision.models.vision_transformer import interpolate_embeddings

    resized: Any = get_model(name, weights=None, image_size=size)
    state = model.state_dict()
    resized.load_state_dict(interpolate_embeddings(size, resized.patch_size, state))
    found: nn.Module = resized
    return found


def _preprocessing(transforms: Any) -> Preprocessing:
    """What weights expect, by their own transforms."""
    return Preprocessing(
        transforms.crop_size[0],
        max(transforms.crop_size[0], transforms.resize_size[0]),
        tuple(transforms.mean),
        tuple(transforms.std),
        transforms.interpolation.value,
    )


MEMBER = load

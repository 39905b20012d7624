"""Targets of data sets as tensors: one class, one class a pixel, several labels, or numbers."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.tensors import check_labels

# Targets of a whole data set, given one by one, as one tensor (N, ...); the name is for messages.
ReadTargets: TypeAlias = Callable[[str, list[Any]], Tensor]


def as_tensor(given: Any, upright: bool = False) -> Tensor:
    """A tensor, array, sequence of numbers, or PIL image as a tensor; images are (C, H, W).

    Args:
        upright: an image is an input: it is turned as its EXIF data say, depths above 8 bits are
            scaled, and colours of a palette looked up. A mask's values stay as they are.

    Raises:
        DataError: it is not known what white is in a picture.
    """
    if isinstance(given, Tensor):
        return given
    if isinstance(given, np.ndarray | np.generic | int | float | list | tuple):
        return torch.as_tensor(np.asarray(given))
    # torchvision takes a second to import and is needed for PIL images only.
    from torchvision.transforms.functional import pil_to_tensor

    from nas_theseus.tasks.pictures import as_input

    tensor: Tensor = pil_to_tensor(as_input(given) if upright else given)
    return tensor


@dataclass(frozen=True, eq=False)
class Alone:
    """A data set of inputs, or of whatever begins with one, as (input, 0)."""

    data: Any

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        found = self.data[index]
        return (found[0] if isinstance(found, list | tuple) else found), 0


def no_labels(name: str, targets: list[Any]) -> Tensor:
    """Zeros (N,), for data of which only the inputs are used."""
    del name
    return torch.zeros(len(targets), dtype=torch.long)


@dataclass(frozen=True)
class ClassLabels:
    """Reads one class an example, 0 … classes-1, as (N,) int64."""

    classes: int

    def __call__(self, name: str, targets: list[Any]) -> Tensor:
        try:
            labels = torch.tensor([int(target) for target in targets])
        except (TypeError, ValueError, RuntimeError) as error:
            raise DataError(
                f"{name}: each target must be the number of one class, not "
                f"{_described(targets[0])}; masks need segmentation(…), several labels "
                "multilabel(…), numbers regression(…)"
            ) from error
        check_labels(name, labels, len(targets), self.classes)
        return labels


@dataclass(frozen=True)
class ClassMaps:
    """Reads masks (H, W), one class a pixel: 0 … classes-1 or `ignored`, as (N, H, W) int64."""

    classes: int
    size: tuple[int, int]
    ignored: int | None

    def __call__(self, name: str, targets: list[Any]) -> Tensor:
        masks = []
        for index, given in enumerate(targets):
            mask = as_tensor(given)
            if mask.dim() == 3 and mask.shape[0] == 1:  # a grey image
                mask = mask[0]
            if tuple(mask.shape) != self.size:
                raise DataError(
                    f"{name}: mask {index} has shape {tuple(mask.shape)}, expected {self.size} "
                    "(H, W) as its image; give the data set a transform"
                )
            wrong = mask != mask.long() if mask.is_floating_point() else torch.zeros(1)
            counted = mask if self.ignored is None else mask[mask != self.ignored]
            outside = counted.numel() and not 0 <= counted.min() <= counted.max() < self.classes
            if wrong.any() or outside:
                without = ", or ignored= for pixels without a class"
                raise DataError(
                    f"{name}: mask {index} has values from {mask.min():g} to {mask.max():g}, "
                    f"{self.classes} classes allow whole numbers 0 to {self.classes - 1}; correct "
                    f"the masks or classes={without if self.ignored is None else ''}"
                )
            masks.append(mask.long())
        return torch.stack(masks)


@dataclass(frozen=True)
class SeveralLabels:
    """Reads which labels are there, `count` zeros and ones an example, as (N, count) float32."""

    count: int

    def __call__(self, name: str, targets: list[Any]) -> Tensor:
        rows = [as_tensor(target).float() for target in targets]
        for index, row in enumerate(rows):
            if tuple(row.shape) != (self.count,) or not ((row == 0) | (row == 1)).all():
                raise DataError(
                    f"{name}: target {index} must be {self.count} zeros and ones, one for each "
                    f"label; it is {_described(targets[index])}"
                )
        return torch.stack(rows)


@dataclass(frozen=True)
class SeveralNumbers:
    """Reads `count` finite numbers an example, or one plain number, as (N, count) float64."""

    count: int

    def __call__(self, name: str, targets: list[Any]) -> Tensor:
        tensors = [as_tensor(target).double() for target in targets]
        rows = [tensor.reshape(tensor.shape or (1,)) for tensor in tensors]
        for index, row in enumerate(rows):
            if tuple(row.shape) != (self.count,):
                raise DataError(
                    f"{name}: target {index} has shape {tuple(row.shape)}, expected "
                    f"({self.count},); correct the targets or numbers="
                )
            if not torch.isfinite(row).all():
                raise DataError(
                    f"{name}: target {index} is {_described(targets[index])}, which is not "
                    "finite; remove the example or correct it"
                )
        return torch.stack(rows)


def _described(value: Any) -> str:
    if isinstance(value, Tensor | np.ndarray) and value.size:
        shape = tuple(value.shape)
        if math.prod(shape) > 4:
            return f"of shape {shape}"
    return repr(value).partition("\n")[0][:60]

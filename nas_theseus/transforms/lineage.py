"""Carry optimizer state across transforms, by tracking where a student's parameters come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nas_theseus.errors import TransformError

# Averages of squares: if they were zero, new weights would take far too large steps.
_SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg"})


@dataclass(frozen=True)
class _Origin:
    """A teacher's parameter and, for each dimension, the old index of each new one (−1: new)."""

    parameter: nn.Parameter
    places: tuple[Tensor | None, ...]


class Lineage:
    """Tracks a network's parameters through transforms, so that an optimizer's state can be kept.

    ::

        lineage = Lineage(teacher)
        student = widen(teacher, "block1.conv1", 96, inlet=inlet, lineage=lineage)
        after = torch.optim.AdamW(student.parameters(), lr=1e-3)
        lineage.carry(before, after, student)

    Args:
        model: the network before its first transform.
    """

    def __init__(self, model: nn.Module) -> None:
        self._origins = {
            name: _Origin(parameter, (None,) * parameter.ndim)
            for name, parameter in model.named_parameters()
        }

    def resized(self, name: str, dim: int, places: Tensor) -> None:
        """Record the old index of each index along a parameter's dimension; −1 for new ones."""
        origin = self._origins.get(name)
        if origin is not None:
            before = origin.places[dim]
            if before is not None:
                places = torch.where(places < 0, -1, before[places.clamp(min=0)])
            changed = (*origin.places[:dim], places, *origin.places[dim + 1 :])
            self._origins[name] = _Origin(origin.parameter, changed)

    def moved(self, before: str, after: str) -> None:
        """Record a submodule's new name."""
        self._origins = {
            after + name.removeprefix(before) if name.startswith(f"{before}.") else name: origin
            for name, origin in self._origins.items()
        }

    def carry(self, before: Optimizer, after: Optimizer, student: nn.Module) -> None:
        """Copy the state of kept parameters from the teacher's optimizer to the student's.

        New entries get zero momentum and, for averages of squares, the mean of the kept entries
        (*ours*). Numbers such as AdamW's step count are copied unchanged. Parameters without an
        origin start without state.

        Args:
            before: the teacher's optimizer.
            after: the student's optimizer, of the same class; its state is overwritten.
            student: the result of the transforms.

        Raises:
            TransformError: the optimizers are of different classes, or the student is the result
                of other transforms.
        """
        if type(before) is not type(after):
            raise TransformError(
                f"{type(after).__name__} cannot use the state of {type(before).__name__}; use the "
                "same optimizer class for the student as for the teacher"
            )
        optimized = {id(p) for group in after.param_groups for p in group["params"]}
        for name, parameter in student.named_parameters():
            origin = self._origins.get(name)
            if origin is None or id(parameter) not in optimized:
                continue
            expected = tuple(
                size if places is None else len(places)
                for size, places in zip(origin.parameter.shape, origin.places, strict=True)
            )
            if expected != tuple(parameter.shape):
                raise TransformError(
                    f"{name!r} has shape {tuple(parameter.shape)}, but {expected} by its lineage: "
                    "pass the same lineage to every transform of the student"
                )
            if state := before.state.get(origin.parameter):
                after.state[parameter] = {
                    key: _carried(key, value, origin, parameter) for key, value in state.items()
                }


def _carried(key: str, value: Any, origin: _Origin, parameter: nn.Parameter) -> Any:
    if not isinstance(value, Tensor):
        return value
    if value.shape != origin.parameter.shape:
        return value.clone()
    new = torch.zeros(parameter.shape, dtype=torch.bool)
    for dim, places in enumerate(origin.places):
        if places is not None:
            value = value.index_select(dim, places.clamp(min=0).to(value.device))
            new |= (places < 0).view([-1 if d == dim else 1 for d in range(new.ndim)])
    fresh = value[~new.to(value.device)].mean() if key in _SECOND_MOMENTS else value.new_zeros(())
    return torch.where(new.to(value.device), fresh, value).to(parameter.device)

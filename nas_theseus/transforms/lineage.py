"""Which parameters of a student were a teacher's: carries optimizer state across transforms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from nas_theseus.errors import TransformError

# Averages of squares: a new weight with none of it would take steps many times too long.
_SECOND_MOMENTS = frozenset({"exp_avg_sq", "max_exp_avg_sq", "square_avg"})


@dataclass(frozen=True)
class _Origin:
    """A teacher's parameter and, for each dimension, the old place of each new one (−1: new)."""

    parameter: nn.Parameter
    places: tuple[Tensor | None, ...]


class Lineage:
    """Follows a network's parameters through transforms, so that an optimizer can go on.

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
        """A parameter has new places along a dimension; −1 for those that are new."""
        origin = self._origins.get(name)
        if origin is not None:
            before = origin.places[dim]
            if before is not None:
                places = torch.where(places < 0, -1, before[places.clamp(min=0)])
            changed = (*origin.places[:dim], places, *origin.places[dim + 1 :])
            self._origins[name] = _Origin(origin.parameter, changed)

    def moved(self, before: str, after: str) -> None:
        """A submodule has another name."""
        self._origins = {
            after + name.removeprefix(before) if name.startswith(f"{before}.") else name: origin
            for name, origin in self._origins.items()
        }

    def carry(self, before: Optimizer, after: Optimizer, student: nn.Module) -> None:
        """Give an optimizer of the student what one of the teacher knows of kept parameters.

        New places get zero momentum and, for averages of squares, the mean of the kept places
        (*ours*). Numbers such as AdamW's step count are carried as they are. Parameters without an
        origin start anew.

        Args:
            before: the teacher's optimizer.
            after: the student's, of the same class; its state is overwritten.
            student: what the transforms gave.

        Raises:
            TransformError: optimizers of two classes, or a student of other transforms.
        """
        if type(before) is not type(after):
            raise TransformError(
                f"state of {type(before).__name__} means nothing to {type(after).__name__}; make "
                "the student's optimizer of the teacher's class"
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
                    f"{name!r} has shape {tuple(parameter.shape)}, by its lineage {expected}: give "
                    "every transform of the student the same lineage"
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

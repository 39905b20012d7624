"""Metrics of tasks: what adds up over batches, names and directions, and metrics of one's own."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeAlias

from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.values.goals import Direction
from nas_theseus.values.registers import METRICS

TargetKind: TypeAlias = Literal["classes", "tokens", "maps", "labels", "numbers"]

# What MLflow, `--where` and constraints can all take.
_NAME = re.compile(r"[A-Za-z0-9_.]+")


class Meter(Protocol):
    """Adds up a metric over the batches of a split; every torchmetrics ``Metric`` is one."""

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take in one batch."""

    def compute(self) -> Any:
        """The metric of all batches since the last reset: one number, or a tensor with one."""

    def reset(self) -> None:
        """Forget all batches."""


@dataclass(frozen=True)
class Targets:
    """What a metric has to know about the targets of a task.

    Attributes:
        kind: ``classes`` (B,) with logits (B, C); ``tokens`` (B, T) with logits (B, T, V);
            ``maps`` (B, H, W) with logits (B, C, H, W); ``labels`` (B, L) of zeros and ones with
            logits (B, L); ``numbers`` (B, K) with outputs (B, K).
        count: classes, tokens of the vocabulary, labels or numbers.
        ignored: class of the pixels that do not count; None counts all.
    """

    kind: TargetKind
    count: int
    ignored: int | None = None


@dataclass(frozen=True)
class NamedMetric:
    """A member of the register of metrics.

    Attributes:
        direction: which way it is better.
        kinds: targets that it can judge.
        make: a new accumulator for such targets; imports torchmetrics, which takes seconds.
    """

    direction: Direction
    kinds: tuple[TargetKind, ...]
    make: Callable[[Targets], Meter]


@dataclass(frozen=True, eq=False)
class OwnMetric:
    """A metric from outside the package, with its name and direction."""

    name: str
    direction: Direction
    meter: Meter


def own_metric(
    meter: Any, name: str | None = None, direction: Direction | None = None
) -> OwnMetric:
    """Name a metric of one's own, and say which way it is better.

    Args:
        meter: a torchmetrics ``Metric``, or any object with ``update(outputs, targets)``,
            ``compute()`` and ``reset()``.
        name: Default: the name of its class in lower case, ``MulticlassAUROC`` as
            ``multiclass_auroc``.
        direction: Default: from its attribute ``higher_is_better``.

    Raises:
        DataError: something that a metric needs is missing.
    """
    if isinstance(meter, OwnMetric):
        return meter
    kind = type(meter).__name__
    missing = [n for n in ("update", "compute", "reset") if not callable(getattr(meter, n, None))]
    if missing or isinstance(meter, type):
        what = f"{meter.__name__} itself, which is not called" if isinstance(meter, type) else kind
        raise DataError(
            f"metric: give a name ({METRICS.one_of}) or an object with update(outputs, targets), "
            f"compute() and reset(), such as a torchmetrics Metric, not {what}"
        )
    if direction is None:
        better = getattr(meter, "higher_is_better", None)
        if not isinstance(better, bool):
            raise DataError(
                f"metric {kind}: it is not known which way it is better; give "
                f"own_metric({kind}(…), direction='maximize'), or 'minimize'"
            )
        direction = "maximize" if better else "minimize"
    return OwnMetric(name or _snake_case(kind), direction, meter)


def name_mistake(name: object) -> str | None:
    """Why a metric cannot have this name; None when it can."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return None
    return (
        f"metric {name!r}: a name has letters, digits, '_' and '.' only, so that MLflow, --where "
        "and constraints can take it"
    )


class Measured(ABC):
    """The metric of a ready task, by name or of one's own.

    Attributes:
        metric: a name from the register; given an object, it becomes the object's name.
        own: the metric of one's own, if it is one.
    """

    name: str
    metric: str
    own: OwnMetric | None

    @property
    @abstractmethod
    def targets(self) -> Targets:
        """What the task's targets are."""

    def __post_init__(self) -> None:
        """Put a metric that was given as an object into `own`.

        Raises:
            DataError: the object lacks what a metric needs.
        """
        if not isinstance(self.metric, str):
            own = own_metric(self.metric)
            object.__setattr__(self, "own", own)
            object.__setattr__(self, "metric", own.name)
        elif self.own is not None and self.own.name != self.metric:
            # A copy with another metric's name: `dataclasses.replace(task, metric="f1")`.
            object.__setattr__(self, "own", None)

    @property
    def direction(self) -> Direction:
        """Which way the metric is better.

        Raises:
            UnknownNameError: no metric has this name.
        """
        if self.own is not None:
            return self.own.direction
        direction: Direction = METRICS[self.metric].direction
        return direction

    def meter(self) -> Meter:
        """An accumulator of the metric for the task's targets.

        Raises:
            UnknownNameError: no metric has this name.
            DataError: the metric cannot judge such targets.
        """
        if self.own is not None:
            return Prepared(self.own.meter, self.for_metric)
        member: NamedMetric = METRICS[self.metric]
        targets = self.targets
        if targets.kind not in member.kinds:
            suited = [name for name in METRICS if targets.kind in METRICS[name].kinds]
            raise DataError(
                f"task {self.name!r}: {self.metric} judges {' or '.join(member.kinds)}, the "
                f"task's targets are {targets.kind}; use {' or '.join(suited)}"
            )
        return Prepared(member.make(targets), self.for_metric)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets as metrics take them; as they are unless a task says otherwise."""
        return outputs, targets


@dataclass(frozen=True, eq=False)
class Prepared:
    """A meter that is given outputs and targets in another form."""

    inner: Meter
    prepare: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take in one batch."""
        self.inner.update(*self.prepare(outputs, targets))

    def compute(self) -> Any:
        """The metric of all batches since the last reset."""
        return self.inner.compute()

    def reset(self) -> None:
        """Forget all batches."""
        self.inner.reset()

    def to(self, device: Any) -> Prepared:
        """The same meter with its sums on a device."""
        move = getattr(self.inner, "to", None)
        return Prepared(move(device), self.prepare) if callable(move) else self


def per_token(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (B, T, V) and ids (B, T) as B·T examples of their own: (B·T, V) and (B·T,)."""
    return outputs.flatten(0, 1), targets.flatten()


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()

"""Metrics of tasks: meters over batches, names, directions, and users' own metrics."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol, TypeAlias

from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.values.goals import Direction
from nas_theseus.values.registers import METRICS

TargetKind: TypeAlias = Literal["classes", "tokens", "maps", "labels", "numbers", "outputs"]

# Names that MLflow, `--where` and constraints all accept.
_NAME = re.compile(r"[A-Za-z0-9_.]+")


class Meter(Protocol):
    """Accumulates a metric over the batches of a split; every torchmetrics ``Metric`` is one."""

    def update(self, outputs: Tensor, targets: Tensor, /) -> None:
        """Take in one batch."""

    def compute(self) -> Any:
        """The metric of all batches since the last reset: one number, or a tensor with one."""

    def reset(self) -> None:
        """Forget all batches."""


@dataclass(frozen=True)
class Targets:
    """Description of a task's targets for metrics.

    Attributes:
        kind: ``classes`` (B,) with logits (B, C); ``tokens`` (B, T) with logits (B, T, V);
            ``maps`` (B, H, W) with logits (B, C, H, W); ``labels`` (B, L) of zeros and ones with
            logits (B, L); ``numbers`` (B, K) with outputs (B, K); ``outputs`` (…, C) with logits
            (…, C), where the targets are the guide's logits.
        count: number of classes, tokens of the vocabulary, labels or numbers.
        ignored: class of pixels that do not count; None if all count.
        token_bytes: returns the bytes of text that each token stands for, (V,), int64. None where
            nobody can say.
    """

    kind: TargetKind
    count: int
    ignored: int | None = None
    token_bytes: Callable[[], Tensor] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class NamedMetric:
    """A member of the register of metrics.

    Attributes:
        direction: whether more or less is better.
        kinds: kinds of targets that it supports.
        make: returns a new meter for such targets; imports torchmetrics, which takes seconds.
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
    """Give a user's own metric a name and a direction.

    Args:
        meter: a torchmetrics ``Metric``, or any object with ``update(outputs, targets)``,
            ``compute()`` and ``reset()``.
        name: Default: the name of its class in lower case, ``MulticlassAUROC`` as
            ``multiclass_auroc``.
        direction: Default: from its attribute ``higher_is_better``.

    Raises:
        DataError: the metric lacks a method or a direction.
    """
    if isinstance(meter, OwnMetric):
        return meter
    kind = type(meter).__name__
    missing = [n for n in ("update", "compute", "reset") if not callable(getattr(meter, n, None))]
    if missing or isinstance(meter, type):
        what = f"{meter.__name__} itself, which is not called" if isinstance(meter, type) else kind
        raise DataError(
            f"metric: use a name ({METRICS.one_of}) or an object with update(outputs, targets), "
            f"compute() and reset(), such as a torchmetrics Metric, not {what}"
        )
    if direction is None:
        better = getattr(meter, "higher_is_better", None)
        if not isinstance(better, bool):
            raise DataError(
                f"metric {kind}: its direction is unknown; use "
                f"own_metric({kind}(…), direction='maximize'), or 'minimize'"
            )
        direction = "maximize" if better else "minimize"
    return OwnMetric(name or _snake_case(kind), direction, meter)


def name_mistake(name: object) -> str | None:
    """Why a metric cannot have this name; None if it can."""
    if isinstance(name, str) and _NAME.fullmatch(name):
        return None
    return (
        f"metric {name!r}: a name can only have letters, digits, '_' and '.', so that MLflow, "
        "--where and constraints accept it"
    )


class Measured(ABC):
    """The metric of a ready task, by name or the user's own.

    Attributes:
        metric: a name from the register, or the user's own metric; an object is replaced by its
            name.
        own: the user's own metric, if there is one.
    """

    name: str
    metric: str
    own: OwnMetric | None
    _named: ClassVar[NamedMetric | None] = None

    @property
    @abstractmethod
    def targets(self) -> Targets:
        """Description of the task's targets."""

    def __post_init__(self) -> None:
        """Move a metric given as an object to `own`.

        Raises:
            DataError: the object is not a metric.
        """
        if not isinstance(self.metric, str):
            own = own_metric(self.metric)
            object.__setattr__(self, "own", own)
            object.__setattr__(self, "metric", own.name)
        elif self.own is not None and self.own.name != self.metric:
            # A copy with another metric's name: `dataclasses.replace(task, metric="f1")`.
            object.__setattr__(self, "own", None)
        # Looked up now: another space may have a metric of the same name.
        object.__setattr__(self, "_named", METRICS.own.get(self.metric))

    @property
    def direction(self) -> Direction:
        """Whether more or less of the metric is better.

        Raises:
            UnknownNameError: no metric has this name.
        """
        if self.own is not None:
            return self.own.direction
        return self._member().direction

    def meter(self) -> Meter:
        """A new meter of the metric for the task's targets.

        Raises:
            UnknownNameError: no metric has this name.
            DataError: the metric does not support such targets.
        """
        if self.own is not None:
            return Prepared(self.own.meter, self.for_metric)
        member = self._member()
        targets = self.targets
        if targets.kind not in member.kinds:
            suited = [name for name in METRICS if targets.kind in METRICS[name].kinds]
            raise DataError(
                f"task {self.name!r}: {self.metric} supports {' or '.join(member.kinds)}, but the "
                f"task's targets are {targets.kind}; use {' or '.join(suited)}"
            )
        return Prepared(member.make(targets), self.for_metric)

    def _member(self) -> NamedMetric:
        """The metric by name."""
        found: NamedMetric = self._named or METRICS[self.metric]
        return found

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Convert outputs and targets for metrics; unchanged unless a task overrides this."""
        return outputs, targets


@dataclass(frozen=True, eq=False)
class Prepared:
    """A meter that converts outputs and targets first."""

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
    """Logits (B, T, V) and ids (B, T) as B·T separate examples: (B·T, V) and (B·T,)."""
    return outputs.flatten(0, 1), targets.flatten()


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()

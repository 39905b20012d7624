"""Outcomes of candidates and blocks: evaluation, stopped at a rung, or failure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from nas_theseus.storage.json_files import number, numbers, text, whole
from nas_theseus.values.architecture import Architecture


@dataclass(frozen=True)
class Cost:
    """Costs of running one architecture on one input at batch 1.

    Attributes:
        numbers: the counted or measured costs by name.
    """

    numbers: Mapping[str, float]

    @classmethod
    def total(cls, costs: Sequence[Cost]) -> Cost:
        """The sum of the costs of at least one block.

        Whole numbers are summed exactly. Other sums are rounded once, so that they do not depend
        on the order of blocks.
        """
        by_name = {name: [cost[name] for cost in costs] for name in costs[0].numbers}
        return cls({name: _sum(numbers) for name, numbers in by_name.items()})

    def __getitem__(self, name: str) -> float:
        """A cost by name.

        Raises:
            KeyError: the cost was neither counted nor measured.
        """
        return self.numbers[name]

    @property
    def macs(self) -> int:
        """Multiply-adds."""
        return int(self.numbers["macs"])

    @property
    def params(self) -> int:
        """Parameters."""
        return int(self.numbers["params"])

    def known(self) -> dict[str, float]:
        """The counted or measured costs by name."""
        return dict(self.numbers)


def _sum(numbers: Sequence[float]) -> float:
    return sum(numbers) if all(isinstance(n, int) for n in numbers) else math.fsum(numbers)


@dataclass(frozen=True)
class CurvePoint:
    """One value of a metric at one step."""

    metric: str
    step: int
    value: float


def _curve(data: Sequence[Sequence[Any]]) -> tuple[CurvePoint, ...]:
    """Points from JSON; similarities have the number of a part in their name."""
    points = tuple(CurvePoint(text(name), whole(step), number(value)) for name, step, value in data)
    for point in points:
        kind, _, position = point.metric.partition("/")
        if kind == "similarity":
            int(position)
    return points


@dataclass(frozen=True)
class Evaluation:
    """Measured quality and cost of one architecture.

    Attributes:
        metrics: final metrics by name, including the task's ``val_<metric>``.
        train_macs_spent: multiply-adds of converting and training this candidate.
        seconds: wall time of the trial's own work.
        curve: metrics by step (similarity per part, losses).
    """

    architecture: Architecture
    recipe: str
    seed: int
    metrics: Mapping[str, float]
    cost: Cost
    train_macs_spent: int
    seconds: float
    curve: tuple[CurvePoint, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.architecture.id}-{self.recipe}-{self.seed}"

    @property
    def similarities(self) -> dict[int, dict[int, float]]:
        """Similarity to the guide by position and stage, for aligned positions in order."""
        found: dict[int, dict[int, float]] = {}
        for point in self.curve:
            kind, _, position = point.metric.partition("/")
            if kind == "similarity":
                found.setdefault(int(position), {})[point.step] = point.value
        return dict(sorted(found.items()))

    def value(self, name: str) -> float:
        """A metric or cost by name.

        Raises:
            KeyError: there is no metric or known cost of this name.
        """
        return self.values()[name]

    def values(self) -> dict[str, float]:
        """All metrics and known costs by name."""
        return {**self.metrics, **self.cost.known()}

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_json(),
            "recipe": self.recipe,
            "seed": self.seed,
            "metrics": dict(self.metrics),
            "cost": self.cost.known(),
            "train_macs_spent": self.train_macs_spent,
            "seconds": self.seconds,
            "curve": [[point.metric, point.step, point.value] for point in self.curve],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        """The inverse of `to_json`; any error says that the data are not one (`MALFORMED`)."""
        return cls(
            architecture=Architecture.from_json(data["architecture"]),
            recipe=text(data["recipe"]),
            seed=whole(data["seed"]),
            metrics=numbers(data["metrics"]),
            # Files of earlier versions have null for costs that were not measured.
            cost=Cost(numbers({name: n for name, n in data["cost"].items() if n is not None})),
            train_macs_spent=whole(data["train_macs_spent"]),
            seconds=number(data["seconds"]),
            curve=_curve(data["curve"]),
            notes=tuple(map(text, data["notes"])),
        )


@dataclass(frozen=True)
class Failure:
    """A candidate that could not be evaluated; recorded and reported to the study like a result."""

    architecture: Architecture
    recipe: str
    seed: int
    stage: str
    message: str
    curve: tuple[CurvePoint, ...] = ()

    @property
    def name(self) -> str:
        return f"{self.architecture.id}-{self.recipe}-{self.seed}"

    def to_json(self) -> dict[str, Any]:
        return {
            "architecture": self.architecture.to_json(),
            "recipe": self.recipe,
            "seed": self.seed,
            "stage": self.stage,
            "message": self.message,
            "curve": [[point.metric, point.step, point.value] for point in self.curve],
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Failure:
        return cls(
            architecture=Architecture.from_json(data["architecture"]),
            recipe=text(data["recipe"]),
            seed=whole(data["seed"]),
            stage=text(data["stage"]),
            message=text(data["message"]),
            curve=_curve(data.get("curve", [])),
        )


@dataclass(frozen=True)
class Stopped:
    """A candidate stopped at a rung; its final metric is predicted, so it is not on the front.

    Attributes:
        rung: name of the rung.
        evaluation: its evaluation at the rung: metrics, MACs and seconds up to then.
        predicted: prediction of the search's metric at the end of training.
        macs_saved: multiply-adds that the rest of its training would have taken.
    """

    rung: str
    evaluation: Evaluation
    predicted: Mapping[str, float]
    macs_saved: int = 0

    @property
    def architecture(self) -> Architecture:
        return self.evaluation.architecture

    @property
    def recipe(self) -> str:
        return self.evaluation.recipe

    @property
    def seed(self) -> int:
        return self.evaluation.seed

    @property
    def name(self) -> str:
        return self.evaluation.name

    def values(self) -> dict[str, float]:
        """All metrics and known costs by name, with the prediction for the search's metric."""
        return {**self.evaluation.values(), **self.predicted}

    def to_json(self) -> dict[str, Any]:
        return {
            **self.evaluation.to_json(),
            "stopped_at": self.rung,
            "predicted": dict(self.predicted),
            "macs_saved": self.macs_saved,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stopped:
        return cls(
            text(data["stopped_at"]),
            Evaluation.from_json(data),
            numbers(data["predicted"]),
            whole(data["macs_saved"]),
        )


Outcome: TypeAlias = Evaluation | Stopped | Failure


@dataclass(frozen=True)
class BlockOutcome:
    """Outcome of converting one block for a search.

    Attributes:
        block: id of the block's key in the library.
        name: name of the block for messages.
        macs, seconds: effort of the conversion; 0 for a block that failed.
        failure: reason of the failure; None if the block was converted.
    """

    block: str
    name: str
    macs: int = 0
    seconds: float = 0.0
    failure: str | None = None

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> BlockOutcome:
        """The inverse of `dataclasses.asdict`."""
        found = cls(**data)
        text(found.block), text(found.name), number(found.macs), number(found.seconds)
        if found.failure is not None:
            text(found.failure)
        return found


@dataclass(frozen=True)
class FrontMember:
    """One evaluation on the front, with its test metrics and MLflow run."""

    evaluation: Evaluation
    test: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None

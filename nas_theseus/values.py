"""The frozen values that pass along the search: boundary, span, architecture, cost, evaluation."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, TypeAlias

Hyperparameter: TypeAlias = bool | int | float | str
Direction: TypeAlias = Literal["maximize", "minimize"]


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces; what ids and hashes are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: object, length: int = 12) -> str:
    """First `length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def derive_seed(*names: object) -> int:
    """A 31-bit seed from names alone, so that it never depends on the order of arrival."""
    return int(short_hash([str(name) for name in names], 8), 16) & 0x7FFFFFFF


@dataclass(frozen=True)
class Boundary:
    """The one tensor that passes between two parts; `shape` is without the batch dimension.

    A shape is (C, H, W) for feature maps, (T, D) for tokens, (D,) for a vector, or (T,) with
    `integer` set for token ids.
    """

    shape: tuple[int, ...]
    integer: bool = False

    @property
    def kind(self) -> Literal["map", "tokens", "vector", "ids"]:
        if self.integer:
            return "ids"
        kinds: dict[int, Literal["map", "tokens", "vector"]] = {3: "map", 2: "tokens", 1: "vector"}
        if len(self.shape) not in kinds:
            raise ValueError(f"a boundary is (C,H,W), (T,D) or (D,), not {self.shape}")
        return kinds[len(self.shape)]

    @property
    def width(self) -> int:
        """Channels of a map, features of a token or vector: what a linear map acts on."""
        return self.shape[0] if len(self.shape) == 3 else self.shape[-1]

    def scaled(self, share: float) -> Boundary:
        """The same positions with `share` times the width, at least 1; token ids stay."""
        if self.integer or share == 1:
            return self
        width = max(1, round(self.width * share))
        if self.kind == "map":
            return Boundary((width, *self.shape[1:]))
        return Boundary((*self.shape[:-1], width))

    def __str__(self) -> str:
        names = {"map": "C,H,W", "tokens": "T,D", "vector": "D", "ids": "T"}
        return f"({names[self.kind]}) = ({', '.join(map(str, self.shape))})"


@dataclass(frozen=True, order=True)
class Span:
    """A contiguous run of guide parts [start, stop)."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a span is 0 <= start < stop, not [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}-{self.stop - 1}" if len(self) > 1 else f"{self.start}"


@dataclass(frozen=True)
class BlockChoice:
    """One block of a target: what it is, and the span of guide parts that it stands for.

    Attributes:
        width_share: width of its outlet as a share of the guide's boundary there; 1 everywhere
            unless a space has free widths.
    """

    span: Span
    block: str
    hyperparameters: tuple[tuple[str, Hyperparameter], ...] = ()
    width_share: float = 1.0

    @property
    def kwargs(self) -> dict[str, Hyperparameter]:
        return dict(self.hyperparameters)

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={value}" for name, value in self.hyperparameters)
        share = "" if self.width_share == 1 else f"@{self.width_share:g}"
        return f"{self.block}({inner}){share}" if inner else f"{self.block}{share}"


@dataclass(frozen=True)
class Architecture:
    """Pairing and block choices: a partition of the guide's parts, in order.

    Raises:
        ValueError: the spans leave a gap or overlap.
    """

    choices: tuple[BlockChoice, ...]

    def __post_init__(self) -> None:
        position = 0
        for choice in self.choices:
            if choice.span.start != position:
                raise ValueError(
                    f"an architecture's spans must join: block {choice.block!r} starts at part "
                    f"{choice.span.start}, expected {position}"
                )
            position = choice.span.stop
        if not self.choices:
            raise ValueError("an architecture needs at least one block")

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, the same for the same choices on every machine."""
        return short_hash(self.to_json())

    @property
    def pairing(self) -> str:
        """The spans, for people: ``0|1-2|3``."""
        return "|".join(str(choice.span) for choice in self.choices)

    @property
    def blocks(self) -> str:
        """The blocks in order, for people: ``keep|depthwise(expand=2)|keep``."""
        return "|".join(str(choice) for choice in self.choices)

    def label(self, position: int) -> str:
        """One block, for people: ``1: depthwise(expand=2) for parts 1-2``."""
        choice = self.choices[position]
        return f"{position}: {choice} for parts {choice.span}"

    @property
    def stop(self) -> int:
        """Number of guide parts that the architecture covers."""
        return self.choices[-1].span.stop

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {
                "span": [choice.span.start, choice.span.stop],
                "block": choice.block,
                "hyperparameters": dict(choice.hyperparameters),
                # Left out where it is the guide's, so that an id does not depend on free widths.
                **({} if choice.width_share == 1 else {"width_share": choice.width_share}),
            }
            for choice in self.choices
        ]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> Architecture:
        """The inverse of `to_json`.

        Raises:
            ValueError: the data are not a list of choices whose spans join.
        """
        try:
            choices = tuple(
                BlockChoice(
                    Span(int(item["span"][0]), int(item["span"][1])),
                    str(item["block"]),
                    tuple(sorted(item.get("hyperparameters", {}).items())),
                    float(item.get("width_share", 1.0)),
                )
                for item in data
            )
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                'an architecture is a list of {"span": [start, stop], "block": name, '
                f'"hyperparameters": {{…}}}}; this one is not: {error!r}'
            ) from error
        return cls(choices)


@dataclass(frozen=True)
class Cost:
    """What one architecture costs to run on one input at batch 1."""

    macs: int
    params: int
    latency_ms: float | None = None
    peak_memory_bytes: int | None = None

    def known(self) -> dict[str, float]:
        """The costs that were counted or measured, by name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class CurvePoint:
    """One value of a metric at one step, as MLflow keeps it."""

    metric: str
    step: int
    value: float


@dataclass(frozen=True)
class Evaluation:
    """Measured quality and cost of one architecture: the truth of results.

    Attributes:
        metrics: final metrics by name, ``val_<metric>`` as the task names it.
        train_macs_spent: multiply-adds spent on converting and training this candidate.
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
        """Similarity to the guide by position and stage; positions in order, aligned ones only."""
        found: dict[int, dict[int, float]] = {}
        for point in self.curve:
            kind, _, position = point.metric.partition("/")
            if kind == "similarity":
                found.setdefault(int(position), {})[point.step] = point.value
        return dict(sorted(found.items()))

    def value(self, name: str) -> float:
        """A metric or cost by name.

        Raises:
            KeyError: neither a metric nor a known cost.
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
            "cost": asdict(self.cost),
            "train_macs_spent": self.train_macs_spent,
            "seconds": self.seconds,
            "curve": [[point.metric, point.step, point.value] for point in self.curve],
            "notes": list(self.notes),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Evaluation:
        return cls(
            architecture=Architecture.from_json(data["architecture"]),
            recipe=data["recipe"],
            seed=data["seed"],
            metrics=dict(data["metrics"]),
            cost=Cost(**data["cost"]),
            train_macs_spent=data["train_macs_spent"],
            seconds=data["seconds"],
            curve=tuple(CurvePoint(*point) for point in data["curve"]),
            notes=tuple(data["notes"]),
        )


@dataclass(frozen=True)
class Failure:
    """A candidate that could not be evaluated; recorded and told to the study like a result."""

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
            recipe=data["recipe"],
            seed=data["seed"],
            stage=data["stage"],
            message=data["message"],
            curve=tuple(CurvePoint(*point) for point in data.get("curve", [])),
        )


@dataclass(frozen=True)
class Reached:
    """Where a running candidate is compared with others: a rung, and what it is there."""

    rung: str
    evaluation: Evaluation


@dataclass(frozen=True)
class Stopped:
    """A candidate that went no further than a rung; its end is predicted, so it is on no front.

    Attributes:
        rung: the rung's name.
        evaluation: what it was there: metrics, MACs and seconds up to then.
        predicted: the searched metric at its end.
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
        """All metrics and known costs by name, the searched metric as it is predicted."""
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
            data["stopped_at"], Evaluation.from_json(data), dict(data["predicted"]),
            data["macs_saved"],
        )  # fmt: skip


# What names a search, and its folder: no path leads out of it.
SEARCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")

Outcome: TypeAlias = Evaluation | Stopped | Failure


@dataclass(frozen=True)
class BlockOutcome:
    """What came of converting one block for a search.

    Attributes:
        block: id of its key in the library.
        name: for people.
        macs, seconds: spent on it; not known, and 0, of a block that failed.
        failure: why it could not be converted; None when it was.
    """

    block: str
    name: str
    macs: int = 0
    seconds: float = 0.0
    failure: str | None = None


@dataclass(frozen=True)
class Objective:
    """One thing a search improves.

    Attributes:
        name: a metric (``val_accuracy``) or a cost (``macs``).
        log: hypervolume is taken over the logarithm (base 10) of the value; default for costs.
        reference: the worst value that still counts; from the guide when None.
    """

    name: str
    direction: Direction
    log: bool = False
    reference: float | None = None


@dataclass(frozen=True)
class Constraint:
    """A hard limit ``name <= limit`` (or ``>=``) on a metric or cost."""

    name: str
    operator: Literal["<=", ">="]
    limit: float

    def violation(self, values: Mapping[str, float]) -> float:
        """How far the values miss the limit, as a share of it; 0 when met or not yet known."""
        if self.name not in values:
            return 0.0
        over = values[self.name] - self.limit
        missed = over if self.operator == "<=" else -over
        return max(0.0, missed) / max(abs(self.limit), 1e-12)

    def __str__(self) -> str:
        return f"{self.name} {self.operator} {self.limit:g}"


@dataclass(frozen=True)
class FrontMember:
    """One evaluation on the front with what is known of it outside the search."""

    evaluation: Evaluation
    rank: int = 0
    test: Mapping[str, float] = field(default_factory=dict)
    run_id: str | None = None

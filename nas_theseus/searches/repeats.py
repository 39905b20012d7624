"""Networks of a front, made again with other seeds: the jobs, their results, and comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from nas_theseus.estimate.spread import LEVEL, Spread, chance_of_difference, holm
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import front_rows
from nas_theseus.searches.repeat_job import Repeat
from nas_theseus.searches.status import Reporter
from nas_theseus.values.outcomes import Evaluation, Failure, FrontMember
from nas_theseus.values.registers import COSTS


@dataclass(frozen=True)
class RepeatedMember:
    """A member of the front with its quality by other seeds than the search's.

    Attributes:
        spread: None if every seed failed or none was run.
        failed: number of seeds with which it could not be evaluated.
    """

    member: FrontMember
    spread: Spread | None
    failed: int = 0

    @property
    def id(self) -> str:
        return self.member.evaluation.architecture.id


@dataclass(frozen=True)
class Difference:
    """Two neighbours on the front.

    Attributes:
        first, second: ids of their architectures, the first before the second on the front.
        difference: mean quality of the second less that of the first.
        probability: of such a difference by the seeds alone, raised for the number of comparisons.
    """

    first: str
    second: str
    difference: float
    probability: float

    @property
    def is_real(self) -> bool:
        return self.probability < LEVEL


@dataclass(frozen=True)
class RepeatedFront:
    """The front of a search, each member with several seeds.

    Attributes:
        metric: the quality that is compared.
        seeds: those asked for; the search's own is none of them, since members are on the front
            because they did well with it.
    """

    search: str
    metric: str
    seeds: tuple[int, ...]
    members: tuple[RepeatedMember, ...]

    @property
    def differences(self) -> tuple[Difference, ...]:
        """Differences of neighbours; members without two values are left out."""
        known = [
            (one.id, one.spread)
            for one in self.members
            if one.spread is not None and len(one.spread.values) > 1
        ]
        pairs = list(pairwise(known))
        alone = [chance_of_difference(first, second) for (_, first), (_, second) in pairs]
        return tuple(
            Difference(first, second, after.mean - before.mean, probability)
            for ((first, before), (second, after)), probability in zip(
                pairs, holm(alone), strict=True
            )
        )

    @property
    def is_constant(self) -> bool:
        """Whether the seed changes the quality of no member."""
        spreads = [one.spread for one in self.members if one.spread is not None]
        return bool(spreads) and all(spread.deviation == 0 for spread in spreads)

    def to_json(self) -> dict[str, Any]:
        """The front as rows, with the repeats of each, and the differences of neighbours."""
        rows = front_rows([one.member for one in self.members])
        return {
            "search": self.search,
            "metric": self.metric,
            "seeds": list(self.seeds),
            "front": [
                {**row, "repeats": _as_json(one)}
                for row, one in zip(rows, self.members, strict=True)
            ],
            "neighbours": [
                {
                    "first": one.first,
                    "second": one.second,
                    "difference": one.difference,
                    "p": one.probability,
                    "real": one.is_real,
                }
                for one in self.differences
            ],
        }


def _as_json(one: RepeatedMember) -> dict[str, Any]:
    spread = one.spread
    if spread is None:
        return {"values": [], "mean": None, "deviation": None, "failed": one.failed}
    deviation = None if math.isnan(spread.deviation) else spread.deviation
    return {
        "values": list(spread.values),
        "mean": spread.mean,
        "deviation": deviation,
        "failed": one.failed,
    }


@dataclass
class RepeatJobs:
    """Hands out repeats, in order.

    Attributes:
        waiting: those that have no result yet.
        metric: the quality that is reported.
    """

    waiting: list[Repeat]
    folder: SearchFolder
    recipe: str
    metric: str
    reporter: Reporter
    _ended: int = field(init=False, default=0)
    _count: int = field(init=False)

    def __post_init__(self) -> None:
        self._count = len(self.waiting)

    def next(self) -> Repeat | None:
        """The next repeat; None if there is none left."""
        return self.waiting.pop(0) if self.waiting else None

    def reported(self, job: Repeat, stage: str) -> None:
        """Stages are not shown."""

    def ended(self, job: Repeat, failure: str | None) -> None:
        """Shows the quality of a repeat, or why there is none."""
        self._ended += 1
        outcome = self.folder.read_outcome(job.outcome_name(self.recipe))
        if isinstance(outcome, Evaluation):
            found = f"{self.metric} {outcome.value(self.metric):.4g}"
        else:
            reason = outcome.message if isinstance(outcome, Failure) else failure
            found = f"failed: {reason or 'its worker saved no result'}"
        self.reporter.say(
            f"repeat {self._ended} of {self._count}: {job.architecture.id} with seed {job.seed}: "
            f"{found}"
        )


def quality_of(begun: Beginning, members: Sequence[FrontMember]) -> str:
    """Name of a search's first objective that is no cost."""
    costs = {*COSTS}.union(*(one.evaluation.cost.numbers for one in members))
    return next(goal.name for goal in begun.objectives if goal.name not in costs)


def repeats_of(members: Sequence[FrontMember], seeds: Sequence[int]) -> list[Repeat]:
    """Every member with every seed: all members with the first, then with the second, and so on."""
    return [Repeat(one.evaluation.architecture, seed) for seed in seeds for one in members]


def read_repeats(
    folder: SearchFolder, members: Sequence[FrontMember], seeds: Sequence[int]
) -> RepeatedFront:
    """Members of a front with the repeats that are there.

    Raises:
        StorageError: no such search.
    """
    begun = Beginning.read(folder)
    metric = quality_of(begun, members) if members else ""
    found = []
    for member in members:
        architecture = member.evaluation.architecture
        outcomes = [
            folder.read_outcome(Repeat(architecture, seed).outcome_name(begun.recipe))
            for seed in seeds
        ]
        values = tuple(one.value(metric) for one in outcomes if isinstance(one, Evaluation))
        failed = sum(isinstance(one, Failure) for one in outcomes)
        found.append(RepeatedMember(member, Spread(values) if values else None, failed))
    return RepeatedFront(folder.name, metric, tuple(seeds), tuple(found))


def spreads_of(folder: SearchFolder, members: Sequence[FrontMember]) -> Mapping[str, Spread]:
    """Spreads of the members that were repeated at least twice, by architecture.

    Raises:
        StorageError: no such search.
    """
    begun = Beginning.read(folder)
    known = {seed for one in members for seed in _seeds(folder, one, begun)}
    repeated = read_repeats(folder, members, sorted(known))
    return {
        one.id: one.spread
        for one in repeated.members
        if one.spread is not None and len(one.spread.values) > 1
    }


def _seeds(folder: SearchFolder, member: FrontMember, begun: Beginning) -> Iterator[int]:
    """Other seeds than the search's with which a member was evaluated."""
    prefix = f"{member.evaluation.architecture.id}-{begun.recipe}-"
    for path in folder.evaluations.glob(f"{prefix}*.json"):
        text = path.name.partition(".")[0].removeprefix(prefix)
        if text.isdigit() and int(text) != begun.seed:
            yield int(text)

"""Scores of converted blocks: which error of a record ranks architectures, and the best by sum."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import Any

from nas_theseus.costs.table import CostTable
from nas_theseus.errors import EstimateError
from nas_theseus.estimate.front import Solutions
from nas_theseus.estimate.space_graph import additive_space
from nas_theseus.library.record import Facts
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.goals import Constraint

#: From the one that ranks best. On 40 fully trained networks (`benchmarks.ranking`), sums of the
#: divergence rank better than those of the residual.
KINDS = ("divergence", "contribution_error", "residual")
_LINEAR = 8.0
_LEAST = 0.01
# By choice, or by choice and width share of its inlet.
Scores = Mapping[BlockChoice, float] | Mapping[tuple[BlockChoice, float], float]


@dataclass(frozen=True)
class BlockScores:
    """One score for each block choice; less is better, and sums rank architectures.

    Attributes:
        kind: which fact of the records it is: the first of `KINDS` that all records have, since
            different kinds cannot be added up.
        values: score by choice. Behind inlets of several widths a choice is several blocks: the
            mean of those known.
    """

    kind: str
    values: Mapping[BlockChoice, float]

    @classmethod
    def of(cls, facts: Mapping[BlockChoice, Collection[Facts]]) -> BlockScores:
        """The scores of the blocks known so far, at least one record a choice."""
        every = [one for records in facts.values() for one in records]
        kind = next(k for k in KINDS if all(getattr(one, k) is not None for one in every))
        values = {
            choice: fmean(getattr(one, kind) for one in records)
            for choice, records in facts.items()
        }
        return cls(kind, values)


def as_prior(scores: Mapping[BlockChoice, float]) -> dict[BlockChoice, float]:
    """Scores as the estimate's prior uses them: linear, and logarithmic for blocks far off.

    Ours. Divergences of blocks that work add up, so they stay as they are. They span orders of
    magnitude, though, and the estimate's unit is their root mean square: a few blocks that destroy
    the outputs would make all others look alike. Beyond `_LINEAR` times the median m of the scores
    that are not 0, a score e becomes c (1 + log(e / c)) with c = `_LINEAR` m.
    """
    positive = [score for score in scores.values() if score > 0]
    if not positive:
        return dict(scores)
    c = _LINEAR * median(positive)
    return {
        choice: score if score <= c else c * (1 + math.log(score / c))
        for choice, score in scores.items()
    }


def errors_of(
    scores: Mapping[BlockChoice, float], choices: Iterable[BlockChoice], space: SearchSpace
) -> dict[BlockChoice, float]:
    """The errors that a search's estimate begins with: `as_prior`, and 0 for kept guide parts.

    Args:
        choices: of the architectures in question; only those that preserve the guide are used.

    Returns:
        Nothing if no block has a score.
    """
    errors = as_prior(scores)
    if errors:
        families = space.families
        errors |= {choice: 0.0 for choice in choices if families[choice.block].preserves}
    return errors


def capacities(space: SearchSpace, costs: CostTable) -> dict[BlockChoice, float]:
    """How much every block of a space can learn, by its multiply-adds; more is better.

    Ours. Block scores compare networks before training, and training makes up for more where a
    block has more to train. A block of m multiply-adds for a span of M, out of T in the whole
    guide, has M/T · log(m/M + 1/100): summed over a network, the logarithm of its multiply-adds to
    first order about the guide. On 40 fully trained networks such sums rank as well as those of
    divergences, and both together far better (`benchmarks.ranking`).

    Returns:
        Capacity by choice: behind inlets of several widths, the mean.
    """
    whole = sum(costs.part_macs) or 1
    found: dict[BlockChoice, list[float]] = {}
    for span, share in space.fitting:
        parts = sum(costs.part_macs[span.start : span.stop]) or 1
        for choice in space.choices(span, share):
            macs = costs.of_choice(choice, share).macs
            found.setdefault(choice, []).append(parts / whole * math.log(macs / parts + _LEAST))
    return {choice: fmean(values) for choice, values in found.items()}


def best_by_score(
    space: SearchSpace,
    costs: CostTable,
    scores: Scores,
    limits: Sequence[Constraint],
) -> Architecture:
    """The architecture with the least sum of scores within limits on additive costs.

    No evaluation is needed. Arguments and errors as for `by_score`.

    Raises:
        EstimateError: the least sum was only found at a precision of costs above 0.2 %.
    """
    found = by_score(space, costs, scores, limits)
    if found.epsilon > 0.002:
        raise EstimateError(
            f"the best architecture within {' and '.join(map(str, limits))} was only found with "
            f"costs compared to {found.epsilon:.1%}; give fewer limits"
        )
    return found[0].architecture


def by_score(
    space: SearchSpace,
    costs: CostTable,
    scores: Scores,
    limits: Sequence[Constraint],
    count: int = 1,
) -> Solutions:
    """The architectures with the least sums of scores within limits, solved exactly.

    Args:
        scores: score by choice, or by choice and width share of its inlet, less is better. A block
            that begins as the guide's part has 0 unless it is given; other choices without a score
            are left out.
        limits: on additive costs of the space.
        count: number of architectures; fewer are returned if there are no more.

    Raises:
        EstimateError: no block has a score.
        LimitError: no architecture keeps the limits, or a limit is on no additive cost.
        PairingError: the blocks with scores do not cover the guide.
    """
    families = space.families
    known: dict[Any, float] = {
        choice: 0.0
        for span, share in space.fitting
        for choice in space.choices(span, share)
        if families[choice.block].preserves
    }
    known.update(scores)
    if not scores:
        raise EstimateError("no block has a score; convert the blocks of the space first")
    unknown = {
        (choice, share)
        for span, share in space.fitting
        for choice in space.choices(span, share)
        if choice not in known and (choice, share) not in known
    }
    names = list(dict.fromkeys(limit.name for limit in limits if limit.name in space.additive))
    graph = additive_space(space, costs, names or None, without=unknown)
    errors = []
    for option in graph.options:
        assert isinstance(option.tail, tuple)
        behind = known.get((option.choice, option.tail[1]))
        errors.append(known[option.choice] if behind is None else behind)
    return graph.best(errors, count, limits, epsilon=0.0)

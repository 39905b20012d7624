"""A new budget on a search: evaluated architectures within it, and predicted better ones."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nas_theseus.costs.table import CostTable
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.estimate.additive import as_measured
from nas_theseus.estimate.block_scores import BlockScores
from nas_theseus.estimate.front import AdditiveSpace
from nas_theseus.estimate.space_graph import additive_space
from nas_theseus.estimate.thompson import PastProposal, Proposer
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.searches.beginning import read_space
from nas_theseus.searches.block_measuring import known_costs
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front, read_outcomes
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.conditions import parse_constraint
from nas_theseus.values.goals import Constraint
from nas_theseus.values.outcomes import Evaluation, Failure, FrontMember, Outcome, Stopped
from nas_theseus.values.rung import qualities, rungs_of

_MAX_LABELS = 30_000


@dataclass(frozen=True)
class Prediction:
    """An architecture that was not evaluated, with its predicted quality and known costs.

    Attributes:
        quality, deviation: mean and standard deviation of the search's metric. Of a prior
            (`Answer.prior`): the sum of its blocks' scores, and 0.
        costs: additive, by name.
        stored, lacking: numbers of its new blocks that the library has and does not have.
    """

    architecture: Architecture
    quality: float
    deviation: float
    costs: Mapping[str, float]
    stored: int
    lacking: int


@dataclass(frozen=True)
class Answer:
    """Architectures within a budget, evaluated and predicted.

    Attributes:
        metric: the quality that is predicted.
        prior: None, or the score by whose sum architectures are ordered because the search has no
            finished evaluation, such as "divergence". Their quality is then unknown.
        evaluated: the front of the evaluations within the budget.
        predicted: new architectures, the most promising first.
        epsilon: 0 if the prediction's search was exact; else the precision of compared costs.
    """

    metric: str
    evaluated: tuple[FrontMember, ...]
    predicted: tuple[Prediction, ...]
    epsilon: float
    prior: str | None = None

    def rows(self) -> list[dict[str, Any]]:
        """The predictions as plain rows, as `front --at --json` prints them."""
        return [
            {
                "architecture": one.architecture.id,
                "pairing": one.architecture.pairing,
                "blocks": one.architecture.blocks,
                **self._expected(one),
                **one.costs,
                "blocks_in_library": one.stored,
                "blocks_to_convert": one.lacking,
                "choices": one.architecture.to_json(),
            }
            for one in self.predicted
        ]

    def _expected(self, one: Prediction) -> dict[str, float]:
        if self.prior is not None:
            return {f"summed_{self.prior}": one.quality}
        return {f"predicted_{self.metric}": one.quality, "deviation": one.deviation}


def parse_budget(text: str) -> tuple[Constraint, ...]:
    """Limits joined by ``and``, such as ``macs <= 5e6 and params <= 1e5``.

    Raises:
        SpaceError: lists every condition that cannot be read.
    """
    budget, mistakes = [], []
    for condition in re.split(r"\s+and\s+", text.strip()):
        try:
            budget.append(parse_constraint(condition))
        except ValueError as error:
            mistakes.append(str(error))
    if mistakes:
        raise SpaceError("--at", mistakes)
    return tuple(budget)


def _refuse_others(budget: Sequence[Constraint], space: SearchSpace) -> None:
    """Refuse limits on anything but the additive costs of a space.

    Raises:
        SpaceError: lists all of them.
    """
    known = space.known_costs
    mistakes = [
        f"{limit.name} in '{limit}' "
        f"{'is measured on finished networks' if limit.name in known else 'is not a cost'}; a "
        f"budget of this search can be on {', '.join(space.additive)} (--where filters evaluated "
        "architectures by any value)"
        for limit in budget
        if limit.name not in space.additive
    ]
    if mistakes:
        raise SpaceError("--at", mistakes)


def answer(
    storage: SearchFolder,
    budget: Sequence[Constraint],
    count: int = 5,
    *,
    distance: int = 2,
    library: str | None = None,
    trust_code: bool = False,
) -> Answer:
    """Answer a budget from a search's evaluations and its library; nothing is trained.

    The estimate learns from all evaluations; its prior comes from the scores of the library's
    blocks. Without any evaluation, the least sums of scores are returned if all blocks have one
    (`Answer.prior`). The first prediction is the best new architecture within the budget, each
    further one the best of those that differ in `distance` guide parts from all before it
    (`AdditiveSpace.diverse`). They maximise the sum of what their blocks add. Interactions of two
    blocks, if the data support them, only change the predicted values and their order. Blocks that
    could not be converted are left out.

    Args:
        budget: limits on additive costs, in addition to the search's own. Evaluated architectures
            also meet the search's limits on measured costs; predicted ones may not.
        count: largest number of predictions.
        library: location of the search's library. Default: in the storage folder.
        trust_code: consent to run the search's copy of its space file.

    Raises:
        StorageError: no such search, no consent, or neither an evaluation nor all blocks yet.
        LibraryError: the library is missing.
        LimitError: no architecture is within the budget; names the limit and the closest one.
        SpaceError: a limit is not on an additive cost of the search; or as `read_space`.
        GuideError: as `read_space`.
    """
    outcomes = read_outcomes(storage)
    space = read_space(storage, trust_code=trust_code)
    _refuse_others(budget, space)
    blocks = _Blocks(space, storage, storage.library if library is None else library)
    begun = _begun(outcomes)
    if not begun and (blocks.lacking or blocks.scores is None):
        raise StorageError(
            f"search {storage.name!r} has no finished evaluation, and {len(blocks.lacking)} of its "
            "blocks are not converted yet, so there is nothing to answer from; continue it with "
            "'nas-theseus search' first"
        )
    forecaster = _Forecaster(space, known_costs(space, storage), blocks)
    predicted, epsilon = forecaster.predict(outcomes, budget, count, distance)
    prior = None if begun or blocks.scores is None else blocks.scores.kind
    return Answer(forecaster.metric, read_front(storage, budget), tuple(predicted), epsilon, prior)


def _begun(outcomes: Collection[Outcome]) -> bool:
    return any(isinstance(outcome, Evaluation) for outcome in outcomes)


class _Blocks:
    """The blocks of a search's space: those in the library, and those that cannot be converted.

    Attributes:
        scores: of those in the library; None if it has none.
        broken: choices that cannot be converted, each with the width share of its inlet.
        lacking: all others that the library does not have, likewise.
    """

    def __init__(self, space: SearchSpace, storage: SearchFolder, location: str | Path) -> None:
        self._keys = BlockKeys(space)
        keys = self._keys.of_space()
        stored = {}
        if space.recipe.library:
            stored = Library(location, create=False).records(keys.values())
        self._stored = stored.keys()
        failed = {one.block for one in storage.block_outcomes() if one.failure is not None}
        failed -= stored.keys()
        self.broken = {placed for placed, key in keys.items() if key.id in failed}
        missing = {placed for placed, key in keys.items() if key.id not in stored}
        self.lacking = missing - self.broken
        found: dict[BlockChoice, list[Facts]] = {}
        for (choice, _), key in keys.items():
            if key.id in stored:
                found.setdefault(choice, []).append(stored[key.id].facts)
        self.scores = BlockScores.of(found) if found else None

    @property
    def errors(self) -> Mapping[BlockChoice, float]:
        """The scores by choice."""
        return {} if self.scores is None else self.scores.values

    def counts(self, architecture: Architecture) -> tuple[int, int]:
        """Numbers of its new blocks that the library has and does not have."""
        keys = [key for key in self._keys.of_blocks(architecture) if key is not None]
        stored = sum(key.id in self._stored for key in keys)
        return stored, len(keys) - stored


class _Forecaster(Proposer):
    """Finds the best architectures within a budget, by the estimate of the `theseus` sampler."""

    def __init__(self, space: SearchSpace, costs: CostTable, blocks: _Blocks) -> None:
        super().__init__(space, costs, errors=lambda: blocks.errors)
        self._blocks = blocks

    @cached_property
    def _graph(self) -> AdditiveSpace:
        names = self.space.additive
        return additive_space(self.space, self._costs, names, _MAX_LABELS, self._blocks.broken)

    @property
    def metric(self) -> str:
        """Name of the predicted quality."""
        return self._quality.name

    def predict(
        self,
        outcomes: Collection[Outcome],
        budget: Sequence[Constraint],
        count: int,
        distance: int,
    ) -> tuple[list[Prediction], float]:
        """Predictions, the most promising first, and epsilon as in `Answer`."""
        past = [self._past(outcome) for outcome in outcomes]
        estimate = self._estimate(past)
        by_sum = not _begun(outcomes)
        choices, numbers = self._choices
        errors = self._summed(choices) if by_sum else -estimate.weights(choices)
        found = self._graph.diverse(
            errors[numbers],
            count,
            distance,
            [*budget, *self._limits],
            epsilon=0.0,
            without={one.architecture for one in past},
        )
        if not found:
            return [], 0.0
        epsilon = max(one.epsilon for one in found)
        if by_sum:
            return [self._prediction(one.architecture, one.error) for one in found], epsilon
        means, deviations = estimate.predict([one.architecture for one in found])
        predictions = [
            self._prediction(
                found[i].architecture,
                as_measured(float(means[i]), self._quality),
                self._in_units(float(means[i]), float(deviations[i])),
            )
            for i in np.argsort(-means, kind="stable")
        ]
        return predictions, epsilon

    def _summed(self, choices: Sequence[BlockChoice]) -> NDArray[np.float64]:
        """Each choice's score; 0 for what begins as the guide's part."""
        scores = self._blocks.errors
        return np.array([scores.get(choice, 0.0) for choice in choices])

    def _past(self, outcome: Outcome) -> PastProposal:
        if isinstance(outcome, Failure):
            return PastProposal(outcome.architecture)
        stopped = isinstance(outcome, Stopped)
        evaluation = outcome.evaluation if isinstance(outcome, Stopped) else outcome
        reached = qualities(evaluation, rungs_of(self.space.recipe, self.metric))
        return PastProposal(
            outcome.architecture, outcome.values(), predicted=stopped, rungs=reached
        )

    def _in_units(self, mean: float, deviation: float) -> float:
        # Minimised values are learnt as logarithms; to first order, deviations are shares of them.
        if self._quality.direction == "maximize":
            return deviation
        return as_measured(mean, self._quality) * deviation

    def _prediction(
        self, architecture: Architecture, quality: float, deviation: float = 0.0
    ) -> Prediction:
        costs = self._costs.of(architecture).known()
        counts = self._blocks.counts(architecture)
        return Prediction(architecture, quality, deviation, costs, *counts)

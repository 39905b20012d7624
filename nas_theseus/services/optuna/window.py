"""Windows: which trials of a long study a sampler is shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import optuna
from optuna.samplers import BaseGASampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.estimate.pareto import front
from nas_theseus.services.optuna.marks import ESTIMATED, REASON
from nas_theseus.services.optuna.private import GenerationMarks, ShownStudy

# A window moves by this share of its latest trials.
_STEPS = 8


class Window(Protocol):
    """Which of one study's trials a sampler is shown.

    The choice depends on the trials alone, not on when the window was made.
    """

    def of(self, study: optuna.Study) -> optuna.Study:
        """The study as the sampler sees it."""
        ...


class Generations:
    """Shows the last two generations, their parents and the running trials, for genetic samplers.

    Such a sampler uses no others, so its proposals are the same as from the whole study, which it
    would search for its generation at every proposal.
    """

    def __init__(self, sampler: type[BaseGASampler]) -> None:
        self._marks = GenerationMarks(sampler)
        self._passed = 0
        self._kept: list[int] = []

    def of(self, study: optuna.Study) -> optuna.Study:
        """The study with these trials alone; a trial that is left out once is never shown again."""
        trials = study.get_trials(deepcopy=False)
        looked = [*self._kept, *range(self._passed, len(trials))]
        self._passed = len(trials)
        generations = {
            i: self._marks.generation(trials[i])
            for i in looked
            if trials[i].state == TrialState.COMPLETE
        }
        last = max(generations.values(), default=0)
        # The next generation's parents are selected among the last one's and its own.
        parents = self._marks.parents(study, (last - 1, last, last + 1))
        self._kept = [
            i
            for i in looked
            if not trials[i].state.is_finished()
            or self._marks.trial_id(trials[i]) in parents
            or generations.get(i, -1) >= last - 1
        ]
        return ShownStudy(study, [trials[i] for i in self._kept])


class Thinned:
    """Shows the front of a study, the running trials, the latest ones, and some of the others.

    A trial that left the front cannot come back to it, so each trial is judged once.

    Args:
        most: number of trials besides the front and the running ones. Half of them are the latest,
            and up to an eighth of that half more. The other half is spread evenly over the study:
            from the latest alone, a sampler would not learn that other regions are worse.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._passed = 0
        self._running: list[int] = []
        self._front: list[int] = []

    def of(self, study: optuna.Study) -> optuna.Study:
        """The study with these trials only; the study itself while it is short."""
        trials = study.get_trials(deepcopy=False)
        if len(trials) <= self._most:
            return study
        half = self._most // 2
        # In steps, so that most proposals see what the one before saw, and the trials since then.
        newest = len(trials) - half
        newest -= newest % max(1, half // _STEPS)
        older = [*self._running, *range(self._passed, newest)]
        self._passed = newest
        self._running = [i for i in older if not trials[i].state.is_finished()]
        counted = [*self._front, *(i for i in older if _counts(trials[i]))]
        if counted:
            points = np.array([_minimised(trials[i], study.directions) for i in counted])
            _, first = np.unique(points, axis=0, return_index=True)
            first.sort()  # the oldest of repeated proposals
            self._front = [counted[first[place]] for place in front(points[first])]
        stride = 1
        while newest > stride * half:
            stride *= 2  # powers of 2, so that a trial that was left out stays out
        seen = sorted({*self._running, *self._front, *range(0, newest, stride)})
        return ShownStudy(study, [*(trials[i] for i in seen), *trials[newest:]])


def _counts(trial: FrozenTrial) -> bool:
    """Whether a trial's own result may be on the front."""
    return (
        trial.state == TrialState.COMPLETE
        and not {REASON, ESTIMATED} & trial.user_attrs.keys()
        and all(violation <= 0 for violation in trial.constraints.values())
    )


def _minimised(trial: FrozenTrial, directions: Sequence[StudyDirection]) -> list[float]:
    return [
        -value if direction == StudyDirection.MAXIMIZE else value
        for value, direction in zip(trial.values, directions, strict=True)
    ]

"""What a sampler looks at in a long study: its front and a part of the trials, or generations."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence
from typing import Protocol

import numpy as np
import optuna
from optuna.samplers import BaseGASampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.estimate.pareto import front
from nas_theseus.services.optuna.theseus_sampler import ESTIMATED, REASON


class Window(Protocol):
    """Which of one study's trials a sampler is shown.

    They depend on the trials alone, not on when the window was made.
    """

    def of(self, study: optuna.Study) -> optuna.Study:
        """The study as a sampler is to see it."""
        ...


class Generations:
    """What a genetic sampler reads: the last two generations, their parents, and what still runs.

    Its proposals are those that it would make of the whole study, among which it would look for
    its generation each time.
    """

    def __init__(self, sampler: type[BaseGASampler]) -> None:
        self._generation = sampler._get_generation_key()
        self._parents = sampler._get_parent_cache_key_prefix()
        self._passed = 0
        self._kept: list[int] = []

    def of(self, study: optuna.Study) -> optuna.Study:
        """The study with these alone; what has gone out of date cannot come back."""
        trials = study.get_trials(deepcopy=False)
        looked = [*self._kept, *range(self._passed, len(trials))]
        self._passed = len(trials)
        generations = {
            i: trials[i].system_attrs.get(self._generation, -1)
            for i in looked
            if trials[i].state == TrialState.COMPLETE
        }
        last = max(generations.values(), default=0)
        selected = study._storage.get_study_system_attrs(study._study_id)
        # The next generation's parents are selected among the last one's and its own.
        parents = {
            trial_id
            for generation in (last - 1, last, last + 1)
            for trial_id in selected.get(f"{self._parents}{generation}", ())
        }
        self._kept = [
            i
            for i in looked
            if not trials[i].state.is_finished()
            or trials[i]._trial_id in parents
            or generations.get(i, -1) >= last - 1
        ]
        return _Seen(study, [trials[i] for i in self._kept])


class Thinned:
    """The front of one study, the trials that still run, the latest ones, and some of the others.

    What left the front cannot come back, so each trial is judged once.

    Args:
        most: trials besides the front and those that run. Half of them are the latest; the others
            are spread evenly, since of the latest alone a sampler would not know that elsewhere is
            worse.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._passed = 0
        self._running: list[int] = []
        self._front: list[int] = []

    def of(self, study: optuna.Study) -> optuna.Study:
        """The study itself as long as it is short."""
        trials = study.get_trials(deepcopy=False)
        if len(trials) <= self._most:
            return study
        half = self._most // 2
        newest = len(trials) - half
        older = [*self._running, *range(self._passed, newest)]
        self._passed = newest
        self._running = [i for i in older if not trials[i].state.is_finished()]
        counted = [*self._front, *(i for i in older if _counts(trials[i]))]
        if counted:
            points = np.array([_minimised(trials[i], study.directions) for i in counted])
            _, first = np.unique(points, axis=0, return_index=True)
            first.sort()  # of repeated proposals the oldest
            self._front = [counted[first[place]] for place in front(points[first])]
        stride = 1
        while newest > stride * half:
            stride *= 2  # so that a trial that was left out does not come back
        seen = sorted({*self._running, *self._front, *range(0, newest, stride)})
        return _Seen(study, [*(trials[i] for i in seen), *trials[newest:]])


class _Seen(optuna.Study):
    """A study of which samplers are shown some trials only."""

    def __init__(self, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
        super().__init__(study.study_name, study._storage, study.sampler, study.pruner)
        self._shown = trials

    def _get_trials(
        self,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
        use_cache: bool = False,
    ) -> list[FrozenTrial]:
        chosen = [trial for trial in self._shown if states is None or trial.state in states]
        return copy.deepcopy(chosen) if deepcopy else chosen


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

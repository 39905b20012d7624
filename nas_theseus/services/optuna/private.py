"""Every private name of Optuna that this package uses, each with its reason; no other file has one.

Optuna may change these names in any release. Those whose absence would go unnoticed, such as a
method that Optuna no longer calls, are checked when this module is imported, so that an Optuna
which lacks one is refused by name.
"""

from __future__ import annotations

import copy
from collections.abc import Container, Iterable, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseGASampler, TPESampler
from optuna.storages import BaseStorage
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.errors import ServiceError


class ShownStudy(optuna.Study):
    """A study that shows samplers some of its trials only; everything else is the study's.

    Private: `Study._get_trials`, which Optuna's samplers call in place of `Study.get_trials`, and
    `Study._storage`, since a study has no public attribute for its storage.

    Args:
        study: the whole study.
        trials: those that are shown, by number.
    """

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


# Finished trials of each study by number, each with its genes as numbers, shape (genes, 1).
_Rows = dict[int, tuple[FrozenTrial, np.ndarray]]
_rows: WeakKeyDictionary[BaseStorage, dict[tuple[int, tuple[str, ...]], _Rows]] = (
    WeakKeyDictionary()
)


class RememberingTPESampler(TPESampler):
    """Optuna's TPE, which turns the genes of a finished trial into numbers only once.

    Optuna's own does so for every trial at every proposal: about two thirds of a proposal's time at
    2,000 trials. The proposals are the same.

    Private: `TPESampler._get_internal_repr`, which is what takes the time; `Study._storage` and
    `Study._study_id`, which tell studies apart, since the sampler is made anew for every proposal.
    """

    def _get_internal_repr(
        self,
        trials: list[FrozenTrial],
        search_space: dict[str, BaseDistribution],
        study: optuna.Study,
    ) -> dict[str, np.ndarray]:
        if not trials:
            return super()._get_internal_repr(trials, search_space, study)
        of_storage = _rows.setdefault(study._storage, {})
        rows = of_storage.setdefault((study._study_id, tuple(search_space)), {})
        columns = []
        for trial in trials:
            known = rows.get(trial.number)
            if known is None or known[0] is not trial:
                values = super()._get_internal_repr([trial], search_space, study).values()
                known = trial, np.array(list(values))
                if trial.state.is_finished():
                    rows[trial.number] = known
            columns.append(known[1])
        return dict(zip(search_space, np.concatenate(columns, axis=1), strict=True))


class GenerationMarks:
    """What a genetic sampler writes about its generations into a study.

    Private: `BaseGASampler._get_generation_key` and `_get_parent_cache_key_prefix`, the names of
    these attributes; `Study._storage` and `Study._study_id`, since attributes of a study that
    belong to Optuna cannot be read in public; `FrozenTrial._trial_id`, by which parents are named.
    The public `get_trial_generation` and `get_parent_population` write attributes that are missing.

    Args:
        kind: class of the sampler.
    """

    def __init__(self, kind: type[BaseGASampler]) -> None:
        self._generation = kind._get_generation_key()
        self._parents = kind._get_parent_cache_key_prefix()

    def generation(self, trial: FrozenTrial) -> int:
        """The generation of a trial; -1 where the sampler did not make it."""
        found: int = trial.system_attrs.get(self._generation, -1)
        return found

    def parents(self, study: optuna.Study, generations: Iterable[int]) -> set[int]:
        """Ids of the trials that were selected as parents of these generations."""
        selected = study._storage.get_study_system_attrs(study._study_id)
        return {
            trial_id
            for generation in generations
            for trial_id in selected.get(f"{self._parents}{generation}", ())
        }

    @staticmethod
    def trial_id(trial: FrozenTrial) -> int:
        """The id by which `parents` names a trial."""
        return trial._trial_id


def enqueued_genes(trial: FrozenTrial) -> dict[str, Any] | None:
    """Genes that a trial was enqueued with; None for one that a sampler proposed.

    Private: the name of the attribute that `Study.enqueue_trial` writes.
    """
    genes: dict[str, Any] | None = trial.system_attrs.get("fixed_params")
    return genes


def hold_genes_once(trial: FrozenTrial) -> None:
    """Let a trial that was enqueued with its genes hold them once: a third of what it takes.

    Private: as in `enqueued_genes`.
    """
    if enqueued_genes(trial) == trial.params:
        trial.system_attrs["fixed_params"] = trial.params


_REQUIRED = (
    (optuna.Study, "_get_trials"),
    (TPESampler, "_get_internal_repr"),
    (BaseGASampler, "_get_generation_key"),
    (BaseGASampler, "_get_parent_cache_key_prefix"),
)


def check() -> None:
    """Refuse an Optuna that lacks a name whose absence would go unnoticed.

    Raises:
        ServiceError: it lacks one.
    """
    missing = [f"{kind.__name__}.{name}" for kind, name in _REQUIRED if not hasattr(kind, name)]
    if missing:
        raise ServiceError(
            f"Optuna {optuna.__version__} has no {', '.join(missing)}, which nas-theseus uses; "
            "install Optuna 5.0 (pip install 'optuna>=5.0,<5.1')"
        )


check()

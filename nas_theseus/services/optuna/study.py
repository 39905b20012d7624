"""Optuna: the durable study, with constraints and repeats; the truth of proposals."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import optuna
from optuna.exceptions import OptunaError
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from nas_theseus.errors import ServiceError, TheseusError
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.searches.proposals import Proposal
from nas_theseus.services.optuna.genes import FixedGenome, distributions
from nas_theseus.services.optuna.marks import (
    ABANDONED,
    ARCHITECTURE,
    COSTS,
    ESTIMATED,
    LIMITS,
    REASON,
    REPEATED,
    RUNGS,
    WORDS,
)
from nas_theseus.services.optuna.private import enqueued_genes
from nas_theseus.services.optuna.sampler import Sampler, make_sampler, sampler_of
from nas_theseus.services.optuna.storage import StoredStudy, open_stored_study
from nas_theseus.space.genome import Genome
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.architecture_words import in_words
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import Cost, Failure, Outcome, Stopped
from nas_theseus.values.rung import Rung, qualities

# The worst values must be comparable, so they are not infinite.
WORST = 1e12
FRUITLESS_PROPOSALS = 200
_REFUSED = "refused:"  # how the reason of a trial begins that breaks a constraint


@dataclass(frozen=True)
class StudySettings:
    """Which study, and which sampler proposes.

    Attributes:
        name: of the search.
        storage: a journal file's path, or any Optuna storage URL.
        sampler: a name of `values.registers.SAMPLERS`.
        seed: of the proposals.
    """

    name: str
    storage: Path | str
    sampler: str
    seed: int


@dataclass(frozen=True)
class Problem:
    """The search problem, as far as a study needs it.

    Attributes:
        genome: of the search space.
        objectives: their directions are those of the study.
        constraints: limits on objectives and costs.
        cost_of: computable cost of an architecture; called before it is proposed.
        rungs: the quality at each is saved with the trial, for the sampler to learn from.
        proposer: needed by the sampler `theseus` only.
    """

    genome: Genome
    objectives: Sequence[Objective]
    constraints: Sequence[Constraint]
    cost_of: Callable[[Architecture], Cost]
    rungs: Sequence[Rung] = ()
    proposer: Proposer | None = None


def open_study(
    settings: StudySettings,
    problem: Problem,
    known: Callable[[Architecture], Outcome | None],
    warm_starts: Callable[[], Iterable[Architecture]] = tuple,
) -> Study:
    """Open the study of a search, or make it, and resume trials that an earlier driver left open.

    Args:
        known: returns the result of an architecture, or None if it was not evaluated.
        warm_starts: returns the architectures to propose first; called for a new study only.

    Raises:
        ServiceError: the storage cannot be used, or the sampler cannot be made.
        UnknownNameError: no sampler has the name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = sampler_of(settings.sampler)
    make_sampler(settings.sampler, sampler, settings.seed, problem.proposer)  # or fail at once
    stored = open_stored_study(settings.name, settings.storage, problem.objectives)
    study = Study(settings, problem, known, sampler, stored)
    with stored.together():
        new = not stored.study.get_trials(deepcopy=False)
    if new:
        study.enqueue(warm_starts())
    study.resume()
    return study


class Study:
    """The proposals of one search; opened by `open_study`.

    The same architecture is never proposed twice. Proposals that break a constraint are not run;
    the sampler is given their costs, so that it learns from them. A new sampler is made for every
    proposal, seeded from the search's seed and the number of proposals so far. So a study whose
    driver was killed continues as if nothing had happened.

    Attributes:
        refused, duplicates: see `searches.proposals.Proposals`.
    """

    def __init__(
        self,
        settings: StudySettings,
        problem: Problem,
        known: Callable[[Architecture], Outcome | None],
        sampler: Sampler,
        stored: StoredStudy,
    ) -> None:
        self._settings, self._problem, self._known = settings, problem, known
        self._sampler, self._stored, self._study = sampler, stored, stored.study
        self._distributions = distributions(problem.genome)
        self._window = None if sampler.window is None else sampler.window()
        self._running: dict[str, int] = {}
        self._twins: dict[int, list[int]] = {}
        self._waiting: deque[Proposal] = deque()
        self._asked = 0
        self._told: set[str] = set()  # architectures of which a trial has the result
        self._again: set[int] = set()  # finished trials whose saved result is gone
        self._repeated: dict[str, Any] | None = None
        self.refused = 0
        self.duplicates = 0

    def enqueue(self, architectures: Iterable[Architecture]) -> None:
        """Propose these architectures next, in order."""
        first = list(architectures)
        with self._stored.together():  # all or none, if the driver is killed
            for architecture in first:
                self._study.enqueue_trial(self._problem.genome.encode(architecture))

    def resume(self) -> None:
        """Resume the trials that an earlier driver left running.

        Those with a saved result are finished with it; the others are proposed again, first. So are
        finished trials whose saved result is gone, for example because its file was damaged.
        """
        with self._stored.together():
            for trial in self._study.get_trials(deepcopy=False):
                self._resume_trial(trial)

    def _resume_trial(self, trial: FrozenTrial) -> None:
        if trial.user_attrs.get(ABANDONED):
            return
        # If the last proposal was a repeated one, a neighbour of it comes next.
        self._repeated = dict(trial.params) if trial.user_attrs.get(REPEATED) else None
        if trial.state != TrialState.WAITING:
            self._asked += 1
        if trial.state != TrialState.RUNNING:
            self._resume_finished(trial)
            return
        if set(trial.params) != set(self._distributions):
            self._abandon(trial)
            return
        architecture = self._architecture(trial)
        if not {ARCHITECTURE, WORDS} <= trial.user_attrs.keys():  # killed before it was named
            self._name(trial.number, architecture)
        outcome = self._known(architecture)
        if outcome is not None:
            if architecture.id in self._told and REPEATED not in trial.user_attrs:
                self._stored.mark(trial.number, REPEATED, True)
                self._repeated = dict(trial.params)
            self._tell(trial.number, outcome)
        elif self._is_twin(trial.number, architecture):
            return
        elif not self._refuses(trial.number, architecture):
            self._running[architecture.id] = trial.number
            self._waiting.append(Proposal(trial.number, architecture))

    def _resume_finished(self, trial: FrozenTrial) -> None:
        marks = trial.user_attrs
        if ARCHITECTURE not in marks or marks.get(REPEATED) or trial.state == TrialState.WAITING:
            return
        if str(marks.get(REASON, "")).startswith(_REFUSED):
            return
        self._told.add(str(marks[ARCHITECTURE]))
        if trial.state != TrialState.COMPLETE or set(trial.params) != set(self._distributions):
            return
        architecture = self._architecture(trial)
        if self._known(architecture) is None and architecture.id not in self._running:
            self._again.add(trial.number)
            self._running[architecture.id] = trial.number
            self._waiting.append(Proposal(trial.number, architecture))

    def _architecture(self, trial: FrozenTrial | optuna.Trial) -> Architecture:
        """The architecture that a trial's genes mean.

        Raises:
            ServiceError: they are not of this space; its file was damaged or changed.
        """
        try:
            return self._problem.genome.decode(trial.params)
        except (ValueError, LookupError, TypeError) as error:
            raise ServiceError(
                f"trial {trial.number} of study {self._settings.name!r} has genes that this space "
                f"does not have ({error}); restore the study from a backup, or start a new search "
                "under another --name"
            ) from error

    def _abandon(self, trial: FrozenTrial) -> None:
        """Fail a trial whose driver was killed between two genes, and propose it again."""
        self._stored.mark(trial.number, ABANDONED, True)
        self._study.tell(trial.number, state=TrialState.FAIL)
        self._asked -= 1
        genes = enqueued_genes(trial)
        if genes is not None:  # a warm start or a neighbour
            self._study.enqueue_trial(genes)
            self._repeated = None

    def propose(self) -> Proposal | None:
        """The next architecture to evaluate; None if 200 tries find nothing new."""
        if self._waiting:
            return self._waiting.popleft()
        with self._stored.together():
            return self._proposed()

    def _proposed(self) -> Proposal | None:
        fruitless = 0
        while fruitless < FRUITLESS_PROPOSALS:
            if self._repeated is not None:
                genes = self._neighbour(self._repeated)
                if genes is None:
                    return None
                self._study.enqueue_trial(genes)
                self._repeated = None
            trial = self._ask()
            genes = self._stored.genes(trial.number)
            architecture = self._problem.genome.decode(genes)
            self._name(trial.number, architecture)
            outcome = self._known(architecture)
            if outcome is not None and architecture.id not in self._told:
                # A study that lost its last trials, such as a damaged journal that was cut, is told
                # the saved results again, as if it had them for the first time.
                self._tell(trial.number, outcome)
                continue
            fruitless += 1
            twin = outcome is None and self._is_twin(trial.number, architecture)
            if outcome is not None or twin:
                self.duplicates += 1
                self._repeated = genes
                self._stored.mark(trial.number, REPEATED, True)
                if outcome is not None:
                    self._tell(trial.number, outcome)
            elif not self._refuses(trial.number, architecture):
                self._running[architecture.id] = trial.number
                return Proposal(trial.number, architecture)
        return None

    def _name(self, number: int, architecture: Architecture) -> None:
        """Save which architecture a trial is of, as its id and in words."""
        self._stored.mark(number, ARCHITECTURE, architecture.id)
        self._stored.mark(number, WORDS, in_words(architecture))

    def _neighbour(self, genes: dict[str, Any]) -> dict[str, Any] | None:
        """Genes of a new architecture near a repeated proposal; None if 200 tries find none.

        A sampler that has converged proposes known architectures again and again, while their
        neighbours are unknown. More and more genes are changed at random: all of them after a
        quarter of the tries.
        """
        random = Random(derive_seed(self._settings.seed, self._asked, "neighbour"))
        names = list(self._problem.genome.genes)
        for attempt in range(FRUITLESS_PROPOSALS):
            changed = dict(genes)
            share = min(1.0, 4 * (attempt + 1) / FRUITLESS_PROPOSALS)
            for name in random.sample(names, max(1, round(share * len(names)))):
                changed[name] = random.choice(self._problem.genome.genes[name])
            architecture = self._problem.genome.decode(changed)
            # Saved results that the study lost are told when it comes to them again.
            if architecture.id not in self._running and architecture.id not in self._told:
                return changed
        return None

    def report(self, proposal: Proposal, outcome: Outcome) -> None:
        """Save the outcome of a proposal, and of other running ones of the same architecture."""
        self._running.pop(proposal.architecture.id, None)
        with self._stored.together():
            for number in (proposal.number, *self._twins.pop(proposal.number, [])):
                if number not in self._again:  # the study has its result
                    self._tell(number, outcome)

    @property
    def states(self) -> Counter[str]:
        """How many trials are in each of Optuna's states."""
        return Counter(t.state.name for t in self._study.get_trials(deepcopy=False))

    def _ask(self) -> optuna.Trial:
        name, proposer = self._settings.sampler, self._problem.proposer
        seed = derive_seed(self._settings.seed, self._asked)
        sampler = make_sampler(name, self._sampler, seed, proposer)
        self._study.sampler = FixedGenome(sampler, self._distributions, self._window)
        self._asked += 1
        try:
            return self._study.ask(self._distributions)
        except (TheseusError, OptunaError, SQLAlchemyError, OSError):
            raise
        except Exception as error:  # the user's code, or a sampler that does not suit this study
            raise ServiceError(
                f"sampler {name!r} cannot make proposal {self._asked}: {type(error).__name__}: "
                f"{error}. Continue with another --name and --sampler"
            ) from error

    def _is_twin(self, number: int, architecture: Architecture) -> bool:
        """Whether another trial of the same architecture is running; this one gets its result."""
        elder = self._running.get(architecture.id)
        if elder is not None and elder != number:
            self._twins.setdefault(elder, []).append(number)
            return True
        return False

    def _refuses(self, number: int, architecture: Architecture) -> bool:
        """Whether a computable cost breaks a constraint; the trial then ends with the worst values.

        Samplers learn from these values.
        """
        costs = self._problem.cost_of(architecture).known()
        violations = self._violations(costs)
        broken = [name for name, violation in violations.items() if violation > 0]
        if not broken:
            return False
        self._constrain(number, violations)
        self._stored.mark(number, REASON, f"{_REFUSED} breaks {', '.join(broken)}")
        self._study.tell(number, [self._worst(goal, costs) for goal in self._problem.objectives])
        self.refused += 1
        return True

    def _constrain(self, number: int, violations: Mapping[str, float]) -> None:
        """Save by how much a trial breaks each limit, also as text: dashboards show only that."""
        self._stored.constrain(number, violations)
        if violations:
            said = (
                f"{name}: {f'broken by {violation:.1%} of it' if violation > 0 else 'kept'}"
                for name, violation in violations.items()
            )
            self._stored.mark(number, LIMITS, "; ".join(said))

    def _violations(self, values: Mapping[str, float]) -> dict[str, float]:
        return {str(limit): limit.violation(values) for limit in self._problem.constraints}

    def _worst(self, goal: Objective, costs: dict[str, float]) -> float:
        if goal.name in costs:
            return costs[goal.name]
        return -WORST if goal.direction == "maximize" else WORST

    def _tell(self, number: int, outcome: Outcome) -> None:
        self._told.add(outcome.architecture.id)
        if isinstance(outcome, Failure):
            self._stored.mark(number, REASON, f"failed: {outcome.message}"[:500])
            self._study.tell(number, state=TrialState.FAIL)
            return
        values = outcome.values()
        self._constrain(number, self._violations(values))
        if isinstance(outcome, Stopped):
            self._stored.mark(number, ESTIMATED, outcome.rung)
        evaluation = outcome.evaluation if isinstance(outcome, Stopped) else outcome
        self._stored.mark(number, COSTS, evaluation.cost.known())
        if reached := qualities(evaluation, self._problem.rungs):
            self._stored.mark(number, RUNGS, reached)
        self._study.tell(number, [values[goal.name] for goal in self._problem.objectives])


def enqueue(
    name: str,
    storage: Path | str,
    genome: Genome,
    objectives: Sequence[Objective],
    architectures: Sequence[Architecture],
) -> set[Architecture]:
    """Propose these architectures next, in order; those that are already open are not repeated.

    Returns:
        All open architectures: waiting to be proposed, or left running by an earlier driver.

    Raises:
        ServiceError: the storage cannot be used.
    """
    stored = open_stored_study(name, storage, objectives)
    states = (TrialState.WAITING, TrialState.RUNNING)
    opened = set()
    with stored.together():
        for trial in stored.study.get_trials(deepcopy=False, states=states):
            genes = {**(enqueued_genes(trial) or {}), **trial.params}
            if genes.keys() >= genome.genes.keys():
                opened.add(genome.decode(genes))
        for architecture in architectures:
            if architecture not in opened:
                stored.study.enqueue_trial(genome.encode(architecture))
                opened.add(architecture)
    return opened

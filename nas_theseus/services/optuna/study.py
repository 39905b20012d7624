"""Optuna: the durable study, samplers and constraints; the truth of proposals."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage, RDBStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from nas_theseus.errors import ServiceError, TheseusError
from nas_theseus.estimate.rungs import Rung, qualities
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.search.proposals import Proposal
from nas_theseus.services.optuna.journal import Journal
from nas_theseus.services.optuna.sampler import Sampler
from nas_theseus.services.optuna.theseus_sampler import (
    COSTS,
    ESTIMATED,
    REASON,
    RUNGS,
    distributions,
)
from nas_theseus.services.optuna.window import Window
from nas_theseus.space.genome import Genome
from nas_theseus.storage.redaction import scrub, without_credentials
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.goals import Constraint, Objective
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import Cost, Failure, Outcome, Stopped
from nas_theseus.values.registers import SAMPLERS

# A refused or worst-valued proposal must be comparable, so no infinities.
WORST = 1e12
FRUITLESS_PROPOSALS = 200
_ARCHITECTURE = "theseus:architecture"
_ABANDONED = "theseus:abandoned"
_REPEATED = "theseus:repeated"


@dataclass(frozen=True)
class StudySettings:
    """Which study, and who proposes.

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
    """What is searched, as far as a study needs it.

    Attributes:
        cost_of: computable cost of an architecture, asked before it is proposed.
        rungs: qualities there are kept with the trial, for the sampler to learn from.
        proposer: what the sampler `theseus` asks; the others need none.
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
    """Open the study of a search, or make it, and take up what an earlier driver left open.

    Args:
        known: the result of an architecture that was evaluated before, or None.
        warm_starts: gives the architectures that are proposed first; asked in a new study only.

    Raises:
        ServiceError: the storage cannot be used.
        UnknownNameError: no sampler has the name.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    durable, opened = _open(settings.name, settings.storage, problem.objectives)
    study = Study(settings, problem, known, SAMPLERS[settings.sampler], durable, opened)
    if not opened.get_trials(deepcopy=False):
        study.enqueue(warm_starts())
    study.adopt()
    return study


class Study:
    """Proposals of one search: never the same architecture twice, refused ones told to the sampler.

    The sampler is made anew for every proposal, seeded from the search's seed and the number of
    proposals so far, so that a study that was killed continues as if it had not been. Opened by
    `open_study`.

    Attributes:
        refused, duplicates: see `search.proposals.Proposals`.
    """

    def __init__(
        self,
        settings: StudySettings,
        problem: Problem,
        known: Callable[[Architecture], Outcome | None],
        sampler: Sampler,
        storage: BaseStorage,
        study: optuna.Study,
    ) -> None:
        self._settings, self._problem, self._known = settings, problem, known
        self._sampler, self._storage, self._study = sampler, storage, study
        self._study_id = storage.get_study_id_from_name(settings.name)
        self._distributions = distributions(problem.genome)
        self._window = None if sampler.window is None else sampler.window()
        self._running: dict[str, int] = {}
        self._twins: dict[int, list[int]] = {}
        self._waiting: deque[Proposal] = deque()
        self._asked = 0
        self._repeated: dict[str, Any] | None = None
        self.refused = 0
        self.duplicates = 0

    def enqueue(self, architectures: Iterable[Architecture]) -> None:
        """Have architectures proposed next, in order."""
        first = list(architectures)
        with self._together():  # a driver killed in between would leave some of them out
            for architecture in first:
                self._study.enqueue_trial(self._problem.genome.encode(architecture))

    def adopt(self) -> None:
        """Take up what an earlier driver left RUNNING: told if its result is there, else rerun."""
        for trial in self._study.get_trials(deepcopy=False):
            if trial.user_attrs.get(_ABANDONED):
                continue
            # Killed after a repeated proposal was found out: its neighbour comes next.
            self._repeated = dict(trial.params) if trial.user_attrs.get(_REPEATED) else None
            if trial.state != TrialState.WAITING:
                self._asked += 1
            if trial.state != TrialState.RUNNING:
                continue
            if set(trial.params) != set(self._distributions):
                # Killed between two genes: the same proposal is made again in its place.
                self._set(trial.number, _ABANDONED, True)
                self._study.tell(trial.number, state=TrialState.FAIL)
                self._asked -= 1
                if "fixed_params" in trial.system_attrs:  # a warm start or a neighbour
                    self._study.enqueue_trial(trial.system_attrs["fixed_params"])
                    self._repeated = None
                continue
            architecture = self._problem.genome.decode(trial.params)
            outcome = self._known(architecture)
            if outcome is not None:
                self._tell(trial.number, outcome)
            elif self._is_twin(trial.number, architecture):
                pass
            elif self._refusal(trial.number, architecture) is None:
                self._running[architecture.id] = trial.number
                self._waiting.append(Proposal(trial.number, architecture))

    def propose(self) -> Proposal | None:
        """The next architecture to evaluate; None when 200 tries bring nothing new."""
        if self._waiting:
            return self._waiting.popleft()
        with self._together():
            return self._proposed()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """A proposal or a result is one write to the journal; a database has each part at once."""
        journal = self._storage if isinstance(self._storage, Journal) else None
        try:
            with journal.together() if journal is not None else nullcontext():
                yield
        except TheseusError:
            raise
        except (StorageInternalError, SQLAlchemyError, OSError) as error:
            # Optuna calls whatever stops a commit invalid data, and has the reason as its cause.
            raise _unusable(self._settings.storage, error.__cause__ or error) from None

    def _proposed(self) -> Proposal | None:
        for _ in range(FRUITLESS_PROPOSALS):
            if self._repeated is not None:
                genes = self._neighbour(self._repeated)
                if genes is None:
                    return None
                self._study.enqueue_trial(genes)
                self._repeated = None
            trial = self._ask()
            architecture = self._problem.genome.decode(trial.params)
            self._set(trial.number, _ARCHITECTURE, architecture.id)
            outcome = self._known(architecture)
            twin = outcome is None and self._is_twin(trial.number, architecture)
            if outcome is not None or twin:
                self.duplicates += 1
                self._repeated = dict(trial.params)
                self._set(trial.number, _REPEATED, True)
                if outcome is not None:
                    self._tell(trial.number, outcome)
            elif self._refusal(trial.number, architecture) is None:
                self._running[architecture.id] = trial.number
                return Proposal(trial.number, architecture)
        return None

    def _neighbour(self, genes: dict[str, Any]) -> dict[str, Any] | None:
        """Genes near a proposal that means nothing new, which mean something new.

        A sampler that has converged proposes what it knows again and again, while its
        neighbourhood is unknown. More and more genes are changed at random, so that after a
        quarter of the tries they are anywhere in the space.
        """
        random = Random(derive_seed(self._settings.seed, self._asked, "neighbour"))
        names = list(self._problem.genome.genes)
        for attempt in range(FRUITLESS_PROPOSALS):
            changed = dict(genes)
            share = min(1.0, 4 * (attempt + 1) / FRUITLESS_PROPOSALS)
            for name in random.sample(names, max(1, round(share * len(names)))):
                changed[name] = random.choice(self._problem.genome.genes[name])
            architecture = self._problem.genome.decode(changed)
            if architecture.id not in self._running and self._known(architecture) is None:
                return changed
        return None

    def report(self, proposal: Proposal, outcome: Outcome) -> None:
        """Give the result of a proposal, and of those that turned out to mean the same."""
        self._running.pop(proposal.architecture.id, None)
        with self._together():
            for number in (proposal.number, *self._twins.pop(proposal.number, [])):
                self._tell(number, outcome)

    @property
    def states(self) -> Counter[str]:
        """How many trials are in each of Optuna's states."""
        return Counter(t.state.name for t in self._study.get_trials(deepcopy=False))

    def _ask(self) -> optuna.Trial:
        seed = derive_seed(self._settings.seed, self._asked)
        sampler = self._sampler.make(seed, self._problem.proposer)
        self._study.sampler = FixedGenome(sampler, self._distributions, self._window)
        self._asked += 1
        return self._study.ask(self._distributions)

    def _is_twin(self, number: int, architecture: Architecture) -> bool:
        """Another trial that means the same is running: this one gets its result."""
        elder = self._running.get(architecture.id)
        if elder is not None and elder != number:
            self._twins.setdefault(elder, []).append(number)
            return True
        return False

    def _refusal(self, number: int, architecture: Architecture) -> str | None:
        """Refuse what breaks a constraint by its computable cost; told so that samplers learn."""
        costs = self._problem.cost_of(architecture).known()
        violations = [limit.violation(costs) for limit in self._problem.constraints]
        if not any(violations):
            return None
        broken = [
            str(c) for c, v in zip(self._problem.constraints, violations, strict=True) if v > 0
        ]
        self._constrain(number, violations)
        self._set(number, REASON, f"refused: breaks {', '.join(broken)}")
        self._study.tell(number, [self._worst(goal, costs) for goal in self._problem.objectives])
        self.refused += 1
        return broken[0]

    def _worst(self, goal: Objective, costs: dict[str, float]) -> float:
        if goal.name in costs:
            return costs[goal.name]
        return -WORST if goal.direction == "maximize" else WORST

    def _tell(self, number: int, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._set(number, REASON, f"failed: {outcome.message}"[:500])
            self._study.tell(number, state=TrialState.FAIL)
            return
        values = outcome.values()
        self._constrain(number, [c.violation(values) for c in self._problem.constraints])
        if isinstance(outcome, Stopped):
            self._set(number, ESTIMATED, outcome.rung)
        evaluation = outcome.evaluation if isinstance(outcome, Stopped) else outcome
        self._set(number, COSTS, evaluation.cost.known())
        if reached := qualities(evaluation, self._problem.rungs):
            self._set(number, RUNGS, reached)
        self._study.tell(number, [values[goal.name] for goal in self._problem.objectives])

    def _constrain(self, number: int, violations: Sequence[float]) -> None:
        """What `optuna.Trial.set_constraint` writes, for a trial known by its number alone."""
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        for limit, violation in zip(self._problem.constraints, violations, strict=True):
            self._storage.set_trial_system_attr(trial_id, f"constraints:{limit}", violation)

    def _set(self, number: int, key: str, value: object) -> None:
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._study_id, number)
        self._storage.set_trial_user_attr(trial_id, key, value)


def enqueue(
    name: str,
    storage: Path | str,
    genome: Genome,
    objectives: Sequence[Objective],
    architectures: Sequence[Architecture],
) -> set[Architecture]:
    """Have architectures proposed next, in order; those that are open already are not repeated.

    Returns:
        All that are open now: waiting to be proposed, or left running by an earlier driver.
    """
    _, study = _open(name, storage, objectives)
    opened = set()
    for trial in study.get_trials(deepcopy=False, states=(TrialState.WAITING, TrialState.RUNNING)):
        genes = {**trial.system_attrs.get("fixed_params", {}), **trial.params}
        if genes.keys() >= genome.genes.keys():
            opened.add(genome.decode(genes))
    for architecture in architectures:
        if architecture not in opened:
            study.enqueue_trial(genome.encode(architecture))
            opened.add(architecture)
    return opened


class FixedGenome(BaseSampler):
    """A sampler that is told the genome, which every trial has, instead of finding it out.

    Optuna's samplers compare all genes of all trials to find those that every trial has; anew for
    every proposal, as our samplers are, that took 0.9 s at 2,000 trials.

    Args:
        window: what it is shown of a long study; all of it when None.
    """

    def __init__(
        self,
        sampler: BaseSampler,
        genome: dict[str, BaseDistribution],
        window: Window | None = None,
    ) -> None:
        self._sampler, self._window = sampler, window
        # A gene with one value is nothing to choose; Optuna leaves it out as well.
        self._genome = {name: gene for name, gene in genome.items() if not gene.single()}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The whole genome."""
        return self._genome

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """As the sampler does, from what it is shown."""
        seen = study if self._window is None else self._window.of(study)
        return self._sampler.sample_relative(seen, trial, search_space)

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """As the sampler does."""
        return self._sampler.sample_independent(study, trial, param_name, param_distribution)

    def before_trial(self, study: optuna.Study, trial: FrozenTrial) -> None:
        """As the sampler does."""
        self._sampler.before_trial(study, trial)

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """As the sampler does: constraints are kept here."""
        self._sampler.after_trial(study, trial, state, values)


def _open(
    name: str, storage: Path | str, objectives: Sequence[Objective]
) -> tuple[BaseStorage, optuna.Study]:
    try:
        durable = _durable(storage)
        study = optuna.create_study(
            study_name=name,
            storage=durable,
            directions=[goal.direction for goal in objectives],
            load_if_exists=True,
        )
        return durable, study
    except Exception as error:  # database drivers raise their own kinds
        raise _unusable(storage, error) from None


def reach(storage: str) -> None:
    """Open a database before anything is trained, making its tables where there are none.

    Raises:
        ServiceError: it does not answer, refuses the password, or is of another kind.
    """
    try:
        _durable(storage)
    except Exception as error:  # database drivers raise their own kinds
        raise _unusable(storage, error) from None


def _unusable(storage: Path | str, error: BaseException) -> ServiceError:
    """What is told of a storage; the cause may hold the password, so it is not chained."""
    address = str(storage)
    reason = scrub(f"{type(error).__name__}: {error}".splitlines()[0], address)
    if isinstance(storage, Path):
        remedy = "Check that its disk has room and can be written"
    elif "table schema" in reason:  # MLflow keeps its version in a table of the same name
        remedy = "If MLflow uses that database, give the study one of its own (--study)"
    else:
        remedy = "Check address, user and password (--study) and that the database runs"
    return ServiceError(
        f"Optuna's storage {without_credentials(address)} cannot be used: {reason}. {remedy}; "
        "the same command goes on from here"
    )


def _durable(storage: Path | str) -> BaseStorage:
    if isinstance(storage, str):
        # Asked before each use whether it is still there: a database may be restarted.
        return RDBStorage(storage, engine_kwargs={"pool_pre_ping": True})
    return Journal(storage)

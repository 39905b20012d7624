"""One search from settings to front: joins study, cluster and tracking."""

from __future__ import annotations

import copy
import difflib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from filelock import FileLock, Timeout

from nas_theseus import plots
from nas_theseus.convert.finetune import EpochLoss
from nas_theseus.convert.guide_training import prepare_guide
from nas_theseus.convert.target import assemble
from nas_theseus.costs.table import CostTable
from nas_theseus.evaluate import score
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.export import MEMBER_FILES, write_member
from nas_theseus.genome import Genome
from nas_theseus.guide import load_weights
from nas_theseus.pareto import IncrementalFront, as_minimised, hypervolume_of, ranks
from nas_theseus.services import cluster
from nas_theseus.services.cluster import Job
from nas_theseus.services.study import Proposal, Study
from nas_theseus.services.tracking import Tracker
from nas_theseus.settings import SearchSettings
from nas_theseus.space import SearchSpace, load_space
from nas_theseus.storage import Storage, write_bytes, write_json
from nas_theseus.values import (
    Architecture,
    Constraint,
    Evaluation,
    Failure,
    FrontMember,
    Objective,
    Outcome,
)
from nas_theseus.worker import MakeWorker, worker_settings


@dataclass
class State:
    """Where a search is, for those who show it."""

    name: str
    wanted: int
    done: int = 0
    failed: int = 0
    running: dict[str, str] = field(default_factory=dict)
    refused: int = 0
    duplicates: int = 0
    hypervolume: float = 0.0
    front_size: int = 0
    best: dict[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    ended_because: str = ""


class Reporter(Protocol):
    """Who shows a search while it runs."""

    def say(self, message: str) -> None:
        """One line about what happens next."""

    def show(self, state: State) -> None:
        """The search's state changed."""


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far."""

    name: str
    folder: Path
    front: tuple[FrontMember, ...]
    guide: dict[str, float]
    state: State
    undelivered: int


def run_search(space_file: Path, settings: SearchSettings, reporter: Reporter) -> SearchResult:
    """Run a search, or continue the one of this name, until its trials are done.

    Raises:
        TheseusError: anything a user can mend, before any training where it can be seen there.
    """
    text = read_space_text(space_file)
    storage = Storage(settings.storage, settings.name)
    check_kept(storage, settings, text)
    space = load_space(space_file, text)
    refuse_mistakes(space, space_file)
    storage.create()
    lock = FileLock(storage.lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise StorageError(
            f"search {settings.name!r} in {settings.storage} is already running in another "
            "process; wait for it, or give this one another --name"
        ) from error
    with lock:
        return _run(space, space_file, text, storage, settings, reporter)


def _run(
    space: SearchSpace,
    space_file: Path,
    text: str,
    storage: Storage,
    settings: SearchSettings,
    reporter: Reporter,
) -> SearchResult:
    space.task.data_hash()  # data that cannot be had are told before anything else starts
    tracker = Tracker(settings.name, storage.outbox, storage.runs_file)
    tracker.start(_parameters(space, space_file, settings))
    status = "KILLED"
    try:
        keep_beginning(storage, settings, text, space)
        device = torch.device(settings.device)
        guide = _prepare_guide(space, storage, device, reporter)
        costs = CostTable(space)
        guide_values = {space.metric: score(space.guide, space.task, "validation")}
        guide_values |= costs.of_parts().known()
        reporter.say(f"guide: {_figures(guide_values)}")
        cluster.connect(settings, storage.log)
        try:
            jobs = _Jobs(space, costs, storage, tracker, settings, reporter, guide_values)
            reporter.say(_forecast(space, storage, settings, jobs.remaining, device))
            make = MakeWorker(
                worker_settings(
                    space, space_file, text, storage,
                    seed=settings.seed, device=settings.device, cpus=settings.cpus_per_trial,
                )
            )  # fmt: skip
            if jobs.remaining:
                cluster.run_jobs(jobs, make, settings, storage.log)
        finally:
            cluster.disconnect()
        front = _finish(space, text, storage, jobs, tracker, guide_values, guide)
        status = "FINISHED"
    finally:
        undelivered = tracker.finish(status)
    runs = read_runs(storage)
    members = tuple(
        FrontMember(m.evaluation, m.rank, m.test, runs.get(m.evaluation.architecture.id))
        for m in front
    )
    write_front(storage, members, guide_values, jobs.state)
    return SearchResult(
        settings.name, storage.folder, members, guide_values, jobs.state, undelivered
    )


class _Jobs:
    """Proposals as jobs for the cluster; every outcome goes to study, front and tracking."""

    def __init__(
        self,
        space: SearchSpace,
        costs: CostTable,
        storage: Storage,
        tracker: Tracker,
        settings: SearchSettings,
        reporter: Reporter,
        guide_values: dict[str, float],
    ) -> None:
        self._space = space
        self._storage = storage
        self._tracker = tracker
        self._settings = settings
        self._reporter = reporter
        self.reference = reference_of(space.goals, guide_values)
        self.evaluations: dict[str, Evaluation] = {}
        self._failed: set[str] = set()
        self._seconds = 0.0
        self._began = time.monotonic()
        self.front = IncrementalFront(space.goals, space.limits)
        self.state = State(settings.name, settings.trials)
        for outcome in storage.outcomes():
            if (outcome.recipe, outcome.seed) == (space.recipe.id, settings.seed):
                self._take(outcome)
        guide = space.guide_architecture()
        self._study = Study(
            settings.name,
            settings.study_url or storage.journal,
            Genome(space),
            space.goals,
            space.limits,
            costs.of,
            self._known,
            sampler=settings.sampler,
            seed=settings.seed,
            warm_starts=[guide] if guide is not None else [],
        )
        self._project()

    @property
    def remaining(self) -> int:
        done = len(self.evaluations) + len(self._failed)
        return max(0, self._settings.trials - done - len(self.state.running))

    def next(self) -> Job | None:
        budget = self._settings.time_budget_s
        if self.remaining == 0:
            self.state.ended_because = f"{self._settings.trials} trials are done"
            return None
        if budget is not None and time.monotonic() - self._began > budget:
            self.state.ended_because = f"the time budget of {budget:g} s is spent"
            return None
        proposal = self._study.propose()
        if proposal is None:
            self.state.ended_because = "space exhausted: 200 proposals brought nothing new"
            return None
        self.state.running[proposal.architecture.id] = "waiting"
        self._show()
        return Job(proposal.number, proposal.architecture)

    def reported(self, job: Job, stage: str) -> None:
        if job.architecture.id in self.state.running and stage not in ("done", "failed"):
            self.state.running[job.architecture.id] = stage
            self._show()

    def ended(self, job: Job, worker_error: str | None) -> None:
        outcome = self._known(job.architecture)
        if outcome is None:
            outcome = Failure(
                job.architecture, self._space.recipe.id, self._settings.seed, "worker",
                worker_error or "the worker ended without a result; its messages are in Ray's log",
            )  # fmt: skip
            self._storage.write_outcome(outcome)
        self.state.running.pop(job.architecture.id, None)
        self._take(outcome)
        self._study.tell(Proposal(job.key, job.architecture), outcome)
        if isinstance(outcome, Evaluation):
            self._tracker.evaluation(outcome)
        else:
            self._tracker.failure(outcome)
        self._project()

    def _known(self, architecture: Architecture) -> Outcome | None:
        known = self.evaluations.get(architecture.id)
        name = f"{architecture.id}-{self._space.recipe.id}-{self._settings.seed}"
        return known if known is not None else self._storage.read_outcome(name)

    def _take(self, outcome: Outcome) -> None:
        if isinstance(outcome, Failure):
            self._failed.add(outcome.architecture.id)
        elif outcome.architecture.id not in self.evaluations:
            self.evaluations[outcome.architecture.id] = outcome
            self._seconds += outcome.seconds
            self.front.add(outcome)

    def _project(self) -> None:
        """The front and the search's own metrics, as they are now."""
        members = self.front.members
        state = self.state
        state.done, state.failed = len(self.evaluations), len(self._failed)
        state.front_size = len(members)
        goals = self._space.goals
        state.hypervolume = hypervolume_of(members, goals, self.reference) if members else 0.0
        for goal in goals:
            values = [evaluation.value(goal.name) for evaluation in members]
            if values:
                state.best[goal.name] = (max if goal.direction == "maximize" else min)(values)
        metrics = {
            "hypervolume": state.hypervolume,
            "front_size": float(state.front_size),
            "trials_done": float(state.done),
            "trials_failed": float(state.failed),
        }
        ids = [evaluation.architecture.id for evaluation in members]
        if state.done or state.failed:
            self._tracker.front(ids, metrics, state.done + state.failed)
        self._show()

    def _show(self) -> None:
        state = self.state
        state.refused, state.duplicates = self._study.refused, self._study.duplicates
        if self.evaluations:
            mean = self._seconds / len(self.evaluations)
            left = self.remaining + len(state.running)
            state.seconds_left = mean * left / max(1, len(state.running))
        self._reporter.show(state)


def read_space_text(space_file: Path) -> str:
    """The space file's text.

    Raises:
        SpaceError: it cannot be read.
    """
    try:
        return space_file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise SpaceError(
            str(space_file), [f"{reason}; give a Python file with a function space()"]
        ) from error


def refuse_mistakes(space: SearchSpace, space_file: Path) -> None:
    """Raise every mistake of a space together.

    Raises:
        SpaceError: there is at least one.
    """
    mistakes = space.mistakes()
    if not mistakes:
        mistakes = CostTable(space).unmeetable()
    if mistakes:
        raise SpaceError(str(space_file), mistakes)


def check_kept(storage: Storage, settings: SearchSettings, text: str) -> None:
    """Refuse to go on under an existing name with another space, seed or sampler.

    Raises:
        SpaceError: what changed, with the difference shown.
    """
    if storage.space_file.exists():
        kept = storage.space_file.read_text(encoding="utf-8")
        if kept != text:
            lines = difflib.unified_diff(
                kept.splitlines(), text.splitlines(), "kept space.py", "given", lineterm="", n=1
            )
            raise SpaceError(
                f"search {settings.name!r}",
                [
                    "the space file changed since this search began; take another --name, or "
                    f"restore it from {storage.space_file}:\n" + "\n".join(list(lines)[:40])
                ],
            )
    if storage.settings_file.exists():
        kept_settings = json.loads(storage.settings_file.read_text())
        mistakes = [
            f"it began with --{name} {kept_settings[name]}, not {getattr(settings, name)}; leave "
            "the option out, or take another --name"
            for name in ("seed", "sampler")
            if kept_settings[name] != getattr(settings, name)
        ]
        if mistakes:
            raise SpaceError(f"search {settings.name!r}", mistakes)


def keep_beginning(
    storage: Storage, settings: SearchSettings, text: str, space: SearchSpace
) -> None:
    """Keep what the search began with; `check_kept` holds later launches to it."""
    if not storage.settings_file.exists():
        write_json(
            storage.settings_file,
            {
                "seed": settings.seed,
                "sampler": settings.sampler,
                "recipe": space.recipe.id,
                "objectives": [asdict(goal) for goal in space.goals],
                "constraints": [asdict(limit) for limit in space.limits],
            },
        )
        write_bytes(storage.space_file, text.encode())


def reference_of(goals: tuple[Objective, ...], guide: dict[str, float]) -> dict[str, float]:
    """The worst values that count in the hypervolume: the guide's cost, ten points below its quality.

    A quality that is minimised (perplexity) counts up to half as much again as the guide's.
    """
    reference = {}
    for goal in goals:
        if goal.reference is not None:
            reference[goal.name] = goal.reference
        elif goal.name in ("macs", "params"):
            reference[goal.name] = guide[goal.name]
        elif goal.direction == "maximize":
            reference[goal.name] = guide[goal.name] - 0.1
        else:
            reference[goal.name] = guide[goal.name] * 1.5
    return reference


def _prepare_guide(
    space: SearchSpace, storage: Storage, device: torch.device, reporter: Reporter
) -> Path:
    training = space.guide_training

    def told(epoch: EpochLoss) -> None:
        total = training.epochs if training is not None else 0
        reporter.say(f"guide: epoch {epoch.epoch + 1} of {total}, loss {epoch.loss:.4f}")

    return prepare_guide(space.guide, space.task, training, storage.guides, device, told)


def _forecast(
    space: SearchSpace, storage: Storage, settings: SearchSettings, trials: int, device: torch.device
) -> str:
    """How long the search will take: from earlier trials, or from a few steps of the guide."""
    parallel = cluster.slots(settings)
    where = f"{trials} trials to run, {parallel} at a time"
    if not trials:
        return where
    seconds = [o.seconds for o in storage.outcomes() if isinstance(o, Evaluation) and o.curve]
    if seconds:
        each, source = sum(seconds) / len(seconds), "from the trials so far"
    else:
        each, source = _guide_training_seconds(space, device), "at most, from the guide's own steps"
    minutes = each * trials / parallel / 60
    return f"{where}: about {minutes:.1f} min ({source})"


def _guide_training_seconds(space: SearchSpace, device: torch.device) -> float:
    """Task training of the guide at the candidates' recipe, from one short timed epoch of steps."""
    recipe = space.recipe
    examples = space.task.size("train")
    batch = min(recipe.batch_size, examples)
    inputs = space.task.sample(batch)
    network = copy.deepcopy(space.guide).to(device).requires_grad_(True).train()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.perf_counter()
        for step in range(3):
            if step == 1:  # the first one warms up
                started = time.perf_counter()
            network(inputs.to(device)).float().square().mean().backward()
        each = (time.perf_counter() - started) / 2
    finally:
        torch.set_num_threads(threads)
    align = recipe.align_steps * len(space.guide) * recipe.align_batch_size / batch / 2
    return each * (recipe.epochs * (examples // batch) + align)


def _finish(
    space: SearchSpace,
    text: str,
    storage: Storage,
    jobs: _Jobs,
    tracker: Tracker,
    guide_values: dict[str, float],
    guide_path: Path,
) -> list[FrontMember]:
    """Test quality of the front, its files and pictures; ranks of all evaluations."""
    load_weights(space.guide, guide_path)
    test_name = f"test_{space.task.metric}"
    guide_values[test_name] = _tested(storage.front / "guide-test.json", test_name,
                                      lambda: score(space.guide, space.task, "test"))  # fmt: skip
    members = []
    for evaluation in jobs.front.members:
        folder = storage.front / evaluation.architecture.id
        write_member(folder, evaluation, storage.weights_of(evaluation.name), text)

        def measure(evaluation: Evaluation = evaluation) -> float:
            target = assemble(space, evaluation.architecture, 0)
            load_weights(target, storage.weights_of(evaluation.name))
            return score(target, space.task, "test")

        test = {test_name: _tested(folder / "test.json", test_name, measure)}
        members.append(FrontMember(evaluation, 0, test))
    evaluations = list(jobs.evaluations.values())
    ids = {member.evaluation.architecture.id for member in members}
    if evaluations:
        plots.write_front(storage.front, evaluations, ids, space.goals, jobs.state.name)
        points = as_minimised(evaluations, space.goals)
        found = dict(zip((e.architecture.id for e in evaluations), ranks(points), strict=True))
        tracker.ranks(found, {m.evaluation.architecture.id: m.test for m in members})
    write_front(storage, tuple(members), guide_values, jobs.state)
    files = [name for name in ("front.html", "front.png", "front.json")
             if (storage.front / name).exists()]  # fmt: skip
    tracker.artifacts(storage.front, files, None, None)
    for member in members:
        name = member.evaluation.architecture.id
        tracker.artifacts(storage.front / name, MEMBER_FILES, "network", name)
    return members


def _tested(path: Path, name: str, measure: Any) -> float:
    """A test score, measured once and kept."""
    if path.exists():
        return float(json.loads(path.read_text())[name])
    value = float(measure())
    write_json(path, {name: value})
    return value


def front_rows(members: tuple[FrontMember, ...]) -> list[dict[str, Any]]:
    """The front as plain rows, as `front --json` prints them."""
    return [
        {
            "architecture": member.evaluation.architecture.id,
            "pairing": member.evaluation.architecture.pairing,
            "blocks": member.evaluation.architecture.blocks,
            **member.evaluation.values(),
            **member.test,
            "train_macs_spent": member.evaluation.train_macs_spent,
            "seconds": round(member.evaluation.seconds, 3),
            "run_id": member.run_id,
        }
        for member in members
    ]


def write_front(
    storage: Storage, members: tuple[FrontMember, ...], guide: dict[str, float], state: State
) -> None:
    """Keep the front as ``front.json``."""
    write_json(
        storage.front / "front.json",
        {
            "search": storage.name,
            "guide": guide,
            "hypervolume": state.hypervolume,
            "trials_done": state.done,
            "trials_failed": state.failed,
            "front": front_rows(members),
        },
    )


def read_runs(storage: Storage) -> dict[str, str]:
    """MLflow run ids by architecture, as far as they are known."""
    try:
        found: dict[str, str] = json.loads(storage.runs_file.read_text())
        return found
    except (OSError, ValueError):
        return {}


def read_front(storage: Storage) -> tuple[FrontMember, ...]:
    """The front of a search from its evaluations, finished or not; runs no code of the space.

    Raises:
        StorageError: no such search.
    """
    if not storage.settings_file.is_file():
        raise StorageError(
            f"no search {storage.name!r} in {storage.root}; give its --storage, or start it with "
            "'nas-theseus search'"
        )
    kept = json.loads(storage.settings_file.read_text())
    front = IncrementalFront(
        [Objective(**goal) for goal in kept["objectives"]],
        [Constraint(**limit) for limit in kept["constraints"]],
    )
    for outcome in storage.outcomes():
        mine = (outcome.recipe, outcome.seed) == (kept["recipe"], kept["seed"])
        if mine and isinstance(outcome, Evaluation):
            front.add(outcome)
    runs = read_runs(storage)
    members = []
    for evaluation in front.members:
        name = evaluation.architecture.id
        tested = storage.front / name / "test.json"
        test = json.loads(tested.read_text()) if tested.exists() else {}
        members.append(FrontMember(evaluation, 0, test, runs.get(name)))
    return tuple(members)


def _parameters(
    space: SearchSpace, space_file: Path, settings: SearchSettings
) -> dict[str, str | int | float | bool | None]:
    recipe = {f"recipe.{name}": value for name, value in space.recipe.model_dump().items()}
    return {
        "space": space_file.name,
        "task": space.task.name,
        "parts": len(space.guide),
        "architectures": str(space.count()),
        "trials": settings.trials,
        "sampler": settings.sampler,
        "seed": settings.seed,
        "constraints": ", ".join(map(str, space.limits)) or "none",
        **recipe,
    }


def _figures(values: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:,.4g}" for name, value in values.items())

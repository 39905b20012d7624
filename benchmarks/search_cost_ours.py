"""Our search as `nas-theseus search` runs it, its core-seconds and MACs noted at every result.

What `nas_theseus.searches.run` joins is joined here again without MLflow: proposals, blocks and
workers are its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from benchmarks.bare_search import bare_driver
from benchmarks.search_cost_regimes import Regime, described, prepared, workshop
from nas_theseus.candidate.workshop import result_of
from nas_theseus.conversion.target import assemble
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.pareto import is_feasible
from nas_theseus.estimate.thompson import PastProposal, Proposer
from nas_theseus.guide.weights import load_weights
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.searches.block_jobs import BlockJobs
from nas_theseus.searches.driver import Driver, Job
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.opening import reference_of
from nas_theseus.searches.repeat_job import Repeat
from nas_theseus.searches.worker import Worker, WorkerSettings, worker_settings
from nas_theseus.services.ray.executor import RayExecutor
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.storage.whole_files import write_json
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Ended, Reached
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.recipe import Recipe
from nas_theseus.values.resources import Resources
from nas_theseus.values.settings import ExecutorSettings, SearchSettings

FURTHER_LIMIT = "macs <= 1e6"


class TimedWorker(Worker):
    """A worker that keeps the processor time of every job in a file, as far as it has come."""

    def __init__(self, settings: WorkerSettings, folder: Path) -> None:
        super().__init__(settings)
        self._folder = folder

    def __call__(self, job: BlockKey | Architecture | Repeat) -> Iterator[str | Reached | Ended]:
        # Each job is run by one thread alone, and the consumer's time is another process's.
        spent, began = 0.0, time.process_time()
        for event in super().__call__(job):
            spent += time.process_time() - began
            write_json(self._folder / f"{job.id}.json", {"core_seconds": spent})
            yield event
            began = time.process_time()


@dataclass(frozen=True)
class MakeTimedWorker:
    """Makes the worker in its own process."""

    settings: WorkerSettings
    folder: Path

    def __call__(self) -> TimedWorker:
        return TimedWorker(self.settings, self.folder)


@dataclass
class NotedJobs:
    """The search's jobs; the end of every architecture is noted with what all took by then.

    Attributes:
        seconds: folder of the jobs' processor times.
        rows: one an architecture that ended.
    """

    driver: Driver
    space: SearchSpace
    costs: CostTable
    seconds: Path
    rows: list[dict[str, Any]] = field(default_factory=list)

    def next(self) -> Job | None:
        return self.driver.next()

    def reported(self, job: Job, stage: str) -> None:
        self.driver.reported(job, stage)

    def ended(self, job: Job, failure: str | None) -> None:
        self.driver.ended(job, failure)
        if isinstance(job, BlockKey):
            return
        times = [json.loads(path.read_text()) for path in self.seconds.glob("*.json")]
        outcome = self.driver.ledger.outcome_of(job)
        evaluation = outcome if isinstance(outcome, Evaluation) else None
        status = self.driver.status()
        self.rows.append(
            {
                **described(job, self.costs.of(job).macs),
                "validation": evaluation and evaluation.metrics[self.space.metric],
                "train_macs": status.train_macs_spent,
                "block_macs": status.blocks.macs if status.blocks else 0,
                "core_seconds": sum(time["core_seconds"] for time in times),
            }
        )


@dataclass(frozen=True)
class Searched:
    """A finished search.

    Attributes:
        rows: what was evaluated, in order, with MACs and core-seconds of all until then.
        blocks: counts of its blocks, by name.
        converted: ids of the blocks that it converted.
    """

    rows: list[dict[str, Any]]
    evaluations: list[Evaluation]
    blocks: dict[str, float]
    converted: frozenset[str]


def search(
    regime: Regime,
    recipe: Recipe,
    seed: int,
    trials: int,
    folder: Path,
    guide_quality: float,
    *,
    name: str = "search",
    sampler: str = "theseus",
) -> Searched:
    """One search; its library, if the recipe takes blocks from one, is the folder's."""
    space = prepared(regime, recipe)
    storage = SearchFolder(folder.resolve(), name)
    storage.create()
    seconds = storage.folder / "seconds"
    seconds.mkdir(exist_ok=True)
    library = Library(storage.library) if recipe.takes_blocks else None
    settings = SearchSettings(
        name=name,
        trials=trials,
        storage=storage.root,
        seed=seed,
        sampler=sampler,
        library=library is not None,
    )
    driver = bare_driver(space, guide_quality, settings, {}, library)
    noted = NotedJobs(driver, space, CostTable(space), seconds)
    sources = Sources(str(storage.space_file), space_text(regime, recipe))
    made = worker_settings(space, sources, storage, library, seed, Resources())
    executor = RayExecutor(ExecutorSettings(parallel=1), storage.log)
    executor.open()
    try:
        executor.run(noted, MakeTimedWorker(made, seconds), driver.promotes)
    finally:
        executor.close()
    driver.refuse_if_all_failed()
    evaluations = {one.architecture.id: one for one in driver.ledger.evaluations}
    for row in noted.rows:
        evaluation = evaluations.get(row["architecture"])
        row["test"] = None if evaluation is None else _test(space, storage, evaluation)
    counts = driver.status().blocks
    return Searched(
        noted.rows,
        list(evaluations.values()),
        {} if counts is None else counts.metrics(),
        frozenset(outcome.block for outcome in storage.block_outcomes()),
    )


def further_budget(
    regime: Regime,
    recipe: Recipe,
    seed: int,
    folder: Path,
    guide_quality: float,
    evaluations: list[Evaluation],
) -> dict[str, Any]:
    """One more budget asked of a finished search: its best guess there, made and evaluated."""
    asked = replace(prepared(regime, recipe), constraints=(FURTHER_LIMIT,))
    shop = workshop(asked)
    values = {asked.metric: guide_quality}
    values |= shop.costs.of_parts().known()
    storage = SearchFolder(folder.resolve(), "further")
    storage.create()
    library = Library(storage.library)
    blocks = BlockJobs(BlockKeys(asked), library, storage)
    told = []
    for one in evaluations:
        blocks.look_up(one.architecture)  # those that are there have errors
        told.append(PastProposal(one.architecture, one.values(), is_feasible(one, asked.limits)))
    reference = reference_of(asked.goals, values)
    proposer = Proposer(asked, shop.costs, reference, blocks.errors)
    architecture = proposer.propose(told, derive_seed("further", seed))
    if architecture is None:
        return {"limit": FURTHER_LIMIT, "macs_spent": 0}
    made = [shop.keep_block(key, library)[1] for key in blocks.lacking(architecture)]
    found = result_of(shop.convert(architecture, seed, library=library))
    spent = found.evaluation.train_macs_spent + sum(one.macs for one in made if one)
    return {
        **described(architecture, found.evaluation.cost.macs),
        "limit": FURTHER_LIMIT,
        "macs_spent": spent,
        "validation": found.evaluation.metrics[asked.metric],
        "test": score(found.network, asked.task, "test"),
    }


def space_text(regime: Regime, recipe: Recipe) -> str:
    """A space file for the workers."""
    return (
        "from benchmarks.search_cost_regimes import Regime, space_of\n"
        "from nas_theseus import Recipe\n\n\n"
        "def space():\n"
        f"    return space_of(Regime(**{asdict(regime)}), Recipe(**{recipe.model_dump()}))\n"
    )


def _test(space: SearchSpace, storage: SearchFolder, evaluation: Evaluation) -> float:
    target = assemble(space, evaluation.architecture, 0)
    load_weights(target, storage.weights_of(evaluation.name))
    return score(target, space.task, "test")

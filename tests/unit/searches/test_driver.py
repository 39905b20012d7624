"""Order of a search's jobs, run one after the other by a real worker, without Ray."""

from __future__ import annotations

import resource
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from nas_theseus.api.launch import open_driver
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import LibraryError, StorageError
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.searches.block_jobs import BlockJobs
from nas_theseus.searches.driver import Job
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.opening import Measured, plan_of
from nas_theseus.searches.status import Status
from nas_theseus.searches.trackers import Trackers
from nas_theseus.searches.worker import Worker, worker_settings
from nas_theseus.services.optuna.study import StudySettings
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Ended, Reached
from nas_theseus.values.outcomes import Evaluation, Failure, Outcome, Stopped
from nas_theseus.values.resources import Resources
from nas_theseus.values.settings import SearchSettings

TEXT = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, block, choice, cut
from nas_theseus.blocks import Basic, Identity, Keep, Linear
from nas_theseus.tasks import digits


class Wild(nn.Module):
    def __init__(self, inlet, outlet):
        super().__init__()
        self.last = nn.Conv2d(inlet.width, outlet.width, 1)

    def forward(self, x):
        return self.last(x) * float("inf")


def conv(inlet, outlet):
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)), task=digits(), keep=["head"], max_span=2,
        blocks=[Keep(), Basic(width=choice(0.5, 1)), Linear(), Identity()],
        recipe=Recipe(epochs=0.2, align_steps=2, align_examples=128, align_batch_size=64),
    )
"""
LONG = TEXT.replace("epochs=0.2", "epochs=2, batch_size=256")
# With more steps the first epoch predicts the last well enough that a rung stops candidates.
STEADY = LONG.replace("batch_size=256", "batch_size=64")
LIMITED = LONG.replace("recipe=", 'constraints=["peak_memory_bytes <= 1"], recipe=')
WILD = TEXT.replace("Linear(), Identity()", "block(Wild)")


class Silent:
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)

    def show(self, status: Status) -> None:
        """Nothing."""


@dataclass
class Bench:
    """A search whose jobs run here: as many are handed out as there are slots, then one ends."""

    root: Path
    name: str = "jobs"
    trials: int = 6
    slots: int = 2
    text: str = TEXT
    rungs: bool = True
    handed: list[Job] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.sources = Sources(str(self.root / "space.py"), self.text)
        found = load_space(self.sources)
        recipe = found.recipe.model_copy(update={"library": True})
        self.space: SearchSpace = replace(found, recipe=recipe)
        self.storage = SearchFolder(self.root, self.name)
        self.storage.create()
        self.library = Library(self.storage.library)
        self.keys = BlockKeys(self.space)
        self.reporter = Silent()
        settings = SearchSettings(
            name=self.name, trials=self.trials, storage=self.root, sampler="random",
            rungs=self.rungs,
        )  # fmt: skip
        costs = CostTable(self.space)
        measured = Measured(self.space, costs, {"val_accuracy": 0.5, **costs.of_parts().known()})
        trackers = Trackers({}, {}, self.storage.read_outcome, self.reporter.say)
        guide = self.space.guide_architecture()
        self.driver = open_driver(
            measured,
            plan_of(self.space, settings, self.slots),
            self.storage,
            StudySettings(self.name, self.storage.journal, "random", 0),
            (trackers, self.reporter),
            self.library,
            lambda: [] if guide is None else [guide],
        )
        self.worker = Worker(
            worker_settings(
                self.space, self.sources, self.storage, self.library, 0,
                Resources(),
            )
        )  # fmt: skip

    @property
    def status(self) -> Status:
        return self.driver.status()

    def fill(self, running: list[Job]) -> None:
        while len(running) < self.slots and (job := self.driver.next()) is not None:
            if isinstance(job, Architecture):
                keys = self.keys.of_blocks(job)
                assert all(key is None or key in self.library for key in keys)
            assert job not in self.handed
            self.handed.append(job)
            running.append(job)
            assert len(self.status.running) <= self.slots

    def run(self) -> None:
        running: list[Job] = []
        self.fill(running)
        while running:
            job = running.pop()  # the newest, so that what was asked first waits longest
            self.end(job)
            self.fill(running)

    def end(self, job: Job) -> None:
        for event in self.worker(job):
            if isinstance(event, Ended):
                self.driver.ended(job, event.failure)
                return
            if isinstance(event, Reached) and not self.driver.promotes(event):
                self.driver.ended(job, None)
                return

    @property
    def blocks(self) -> list[BlockKey]:
        return [job for job in self.handed if isinstance(job, BlockKey)]

    def evaluations(self) -> dict[str, Evaluation]:
        found = (o for o in self.storage.outcomes() if isinstance(o, Evaluation))
        return {evaluation.architecture.id: evaluation for evaluation in found}


def first_block(bench: Bench) -> BlockKey:
    """Jobs until a block is the next one."""
    while not isinstance(job := bench.driver.next(), BlockKey):
        assert job is not None
        bench.end(job)
    return job


def result(events: Iterable[str | Reached | Ended]) -> str | None:
    (end,) = [event for event in events if isinstance(event, Ended)]
    return end.failure


@pytest.mark.parametrize("slots", [1, 3])
def test_architectures_come_after_their_blocks_and_a_second_search_converts_none(
    slots: int, tmp_path: Path
) -> None:
    first = Bench(tmp_path, "first", slots=slots)
    first.run()
    status, counts = first.status, first.status.blocks
    assert counts is not None
    progress = status.progress
    assert (progress.done, progress.failed, status.running) == (6, 0, {})
    assert counts.converted == len(first.blocks) == len(list(first.library.entries())) > 3
    assert (counts.reused, counts.failed, counts.running) == (0, 0, 0)
    assert counts.macs == sum(r.facts.macs for r in first.library.entries()) > 0
    spent = sum(e.train_macs_spent for e in first.evaluations().values())
    assert first.status.metrics()["train_macs_spent"] == spent + counts.macs
    assert first.status.metrics()["blocks_converted"] == counts.converted

    again = Bench(tmp_path, "first", slots=slots)  # after a restart the same is known
    assert again.status.blocks == counts
    assert again.driver.next() is None

    second = Bench(tmp_path, "second", slots=slots)
    second.run()
    reused = second.status.blocks
    assert reused is not None and second.blocks == []
    assert (reused.converted, reused.macs) == (0, 0)
    assert second.evaluations().keys() == first.evaluations().keys()
    assert (reused.reused, reused.reused_macs) == (counts.converted, counts.macs)
    for name, evaluation in first.evaluations().items():
        other = second.evaluations()[name]
        assert (other.values(), other.curve) == (evaluation.values(), evaluation.curve)
        assert other.train_macs_spent == evaluation.train_macs_spent


def test_a_block_that_cannot_be_converted_fails_its_architectures_and_is_not_tried_again(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, trials=12, text=WILD)
    bench.run()
    state, counts = bench.status.progress, bench.status.blocks
    assert counts is not None
    wild = {key.id for key in bench.blocks if key.block == "wild"}
    assert state.done + state.failed == 12
    assert counts.failed == len(wild) > 0 and state.done > 1
    assert len(bench.reporter.said) == len(wild)
    failures = [o for o in bench.storage.outcomes() if isinstance(o, Failure)]
    assert len(failures) == state.failed > 0
    for failure in failures:
        assert failure.stage == "convert block"
        assert "wild for part" in failure.message and "infinite" in failure.message
        assert "wild" in failure.architecture.blocks

    again = Bench(tmp_path, trials=16, text=WILD)
    assert again.status.progress.failed == state.failed
    again.run()
    assert not wild & {key.id for key in again.blocks}


def test_a_worker_that_died_over_a_block_is_no_result(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=1)
    job = first_block(bench)
    bench.driver.ended(job, "its worker died 3 times")
    assert bench.status.progress.failed == 1
    assert job.id not in {key.id for key in bench.blocks}
    assert all(isinstance(outcome, Evaluation) for outcome in bench.storage.outcomes())
    assert list(bench.storage.block_outcomes()) == []
    bench.run()
    assert job not in bench.handed  # not in this run; a restart may try
    assert Bench(tmp_path, slots=1).status.progress.failed == 0


@pytest.mark.parametrize("what", ["a block", "an architecture"])
def test_a_full_disk_says_nothing_of_a_job_and_nothing_is_kept(what: str, tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=1)
    job: Job = first_block(bench)
    while what == "an architecture" and isinstance(job, BlockKey):
        bench.end(job)
        job = bench.driver.next() or job
    kept = list(bench.storage.outcomes()), list(bench.storage.block_outcomes())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # the kernel refuses to write more
    try:
        with pytest.raises(StorageError, match="cannot write.*space"):
            result(bench.worker(job))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (list(bench.storage.outcomes()), list(bench.storage.block_outcomes())) == kept

    again = Bench(tmp_path, slots=1)  # where the search goes on
    assert again.driver.next() == job
    again.end(job)
    again.run()
    assert (again.status.progress.done, again.status.progress.failed) == (again.trials, 0)


def test_a_library_that_is_gone_is_told_by_worker_and_driver(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=1)
    job = first_block(bench)
    bench.storage.library.rename(tmp_path / "elsewhere")
    with pytest.raises(LibraryError, match="is gone"):
        result(bench.worker(job))
    with pytest.raises(LibraryError, match="is gone"):
        bench.driver.ended(job, None)
    assert list(bench.storage.block_outcomes()) == []


def test_a_block_that_two_architectures_lack_is_handed_out_once(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    blocks = BlockJobs(bench.keys, bench.library, bench.storage)
    basic = BlockChoice(Span(0, 1), "basic", (("width", 1),))
    rest = (BlockChoice(Span(2, 3), "keep"), BlockChoice(Span(3, 4), "keep"))
    one = Architecture((basic, BlockChoice(Span(1, 2), "keep"), *rest))
    other = Architecture((basic, BlockChoice(Span(1, 2), "linear"), *rest))
    first, second = blocks.start(one), blocks.start(other)
    assert first is not None and second is not None
    assert (first.choice, second.block) == (basic, "linear")
    assert blocks.start(one) is None and blocks.start(other) is None
    assert blocks.lacking(other) == [first, second]

    assert result(bench.worker(first)) is None
    assert blocks.lacking(one) == []  # stored, though its end was not told yet
    assert (blocks.counts.running, blocks.counts.reused) == (2, 0)
    assert blocks.ended(first, None) is None
    stored = bench.library.record(first)
    assert stored is not None and blocks.errors() == {basic: stored.facts.divergence}
    assert (blocks.counts.converted, blocks.counts.running) == (1, 1)
    assert blocks.ended(second, "its worker died 3 times") == blocks.broken(other)
    assert blocks.broken(one) is None and blocks.start(other) == second


def test_all_blocks_are_converted_before_the_first_proposal(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    blocks = BlockJobs(bench.keys, bench.library, bench.storage, all_blocks=True)
    wanted = set(bench.keys.of_space().values())
    bench.driver.blocks = blocks
    assert blocks.wanted == len(wanted) > 4
    first, second = bench.driver.next(), bench.driver.next()
    assert isinstance(first, BlockKey) and isinstance(second, BlockKey) and first != second
    # One is converted, the other's worker dies too often: neither is tried again.
    assert result(bench.worker(first)) is None
    bench.driver.ended(first, None)
    bench.driver.ended(second, "its worker died 3 times")
    assert blocks.wanted == len(wanted) - 2
    ended = {first, second}
    while isinstance(job := bench.driver.next(), BlockKey):
        assert job not in ended and not bench.driver.ledger.waiting
        ended.add(job)
        bench.end(job)
    assert ended == wanted and blocks.wanted == 0
    assert isinstance(job, Architecture)  # the guide
    known = blocks.errors()
    assert {key.choice for key in wanted} - known.keys() == {second.choice}


def told(outcome: Outcome) -> object:
    """What must not depend on how a search was run: everything but the time it took."""
    if isinstance(outcome, Stopped):
        return outcome.rung, outcome.predicted, outcome.macs_saved, told(outcome.evaluation)
    assert isinstance(outcome, Evaluation)
    return outcome.values(), outcome.curve, outcome.train_macs_spent


def test_a_search_with_rungs_that_is_killed_ends_as_an_undisturbed_one(tmp_path: Path) -> None:
    whole = Bench(tmp_path, "whole", trials=12, slots=1, text=STEADY)
    whole.run()
    outcomes = {o.architecture.id: told(o) for o in whole.storage.outcomes()}
    stopped = [o for o in whole.storage.outcomes() if isinstance(o, Stopped)]
    state = whole.status.progress
    assert (state.done, state.stopped) == (12 - len(stopped), len(stopped))
    assert 0 < len(stopped) < 10
    members = {member.architecture.id for member in whole.driver.ledger.members}
    assert not members & {one.architecture.id for one in stopped}
    assert not any(whole.storage.weights_of(one.name).exists() for one in stopped)
    assert state.compared == state.done - 1  # the guide comes to no rung
    assert max(state.correlations.values()) >= 0.5
    summary = whole.status.metrics()
    assert summary["trials_stopped"] == len(stopped)
    assert summary["train_macs_saved"] == sum(one.macs_saved for one in stopped) > 0
    taus = {f"tau_{rung}": tau for rung, tau in state.correlations.items()}
    assert taus and taus.items() <= summary.items()

    for trials in (8, 12):
        killed = Bench(tmp_path, "killed", trials=trials, slots=1, text=STEADY)
        killed.run()
        if trials < 12:  # killed at a rung, where nothing is kept yet
            going_on = Bench(tmp_path, "killed", trials=12, slots=1, text=STEADY)
            while not isinstance(job := going_on.driver.next(), Architecture):
                assert job is not None
                going_on.end(job)
            step = next(s for s in going_on.worker(job) if isinstance(s, Reached))
            assert step.rung == "converted"
    assert {o.architecture.id: told(o) for o in killed.storage.outcomes()} == outcomes
    again = killed.status.metrics()
    for name in ("trials_done", "trials_stopped", "train_macs_saved", "hypervolume", *taus):
        assert again[name] == pytest.approx(summary[name]), name


def test_a_search_that_stops_every_candidate_ends_without_a_front_and_none_without_rungs(
    tmp_path: Path,
) -> None:
    bench = Bench(tmp_path, trials=5, slots=1, text=LIMITED)
    bench.run()
    state = bench.status.progress
    assert (state.stopped, state.front, state.hypervolume) == (4, (), 0.0)
    assert state.done == 1  # the guide, which breaks the limit as well
    bench.driver.refuse_if_all_failed()
    stopped = [o for o in bench.storage.outcomes() if isinstance(o, Stopped)]
    assert {one.rung for one in stopped} == {"converted"}
    for one in stopped:
        assert one.predicted == one.evaluation.metrics
        assert one.macs_saved == 3 * 2 * 4 * 256 * one.evaluation.cost.macs

    without = Bench(tmp_path, "without", trials=3, slots=1, text=LIMITED, rungs=False)
    without.run()
    assert (without.status.progress.done, without.status.progress.stopped) == (3, 0)
    assert without.status.progress.compared == 0  # what breaks a limit is no measure of rungs


def test_a_worker_reports_each_step_once_and_the_one_that_failed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, slots=1, text=LONG)
    job: Job = first_block(bench)
    assert list(bench.worker(job)) == ["convert block", Ended()]
    while not isinstance(job, Architecture):
        job = bench.driver.next() or job
        if isinstance(job, BlockKey):
            bench.end(job)
    *events, end = bench.worker(job)
    steps = [event for event in events if isinstance(event, str)]
    assert steps == ["assemble", "take blocks", "recalibrate", "finetune", "measure"]
    rungs = [event.rung for event in events if isinstance(event, Reached)]
    assert rungs == ["converted", "epoch_1"]
    assert end == Ended()
    assert list(bench.worker(job)) == [Ended()]  # its result is saved

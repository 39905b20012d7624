"""A trial whose result cannot be kept ends the search; the study is told nothing of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.services.ray.tune import JobSearcher, JobTrial, packed, unpacked
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Ended

JOB = Architecture((BlockChoice(Span(0, 1), "keep"),))


class Jobs:
    def __init__(self) -> None:
        self.told: list[str | None] = []

    def next(self) -> Architecture:
        return JOB

    def reported(self, job: Architecture, stage: str) -> None:
        """Nothing."""

    def ended(self, job: Architecture, failure: str | None) -> None:
        self.told.append(failure)


def work(error: Exception) -> Iterator[str | Ended]:
    yield "convert"
    raise error


def trial(error: Exception) -> JobTrial:
    made = object.__new__(JobTrial)  # without a Ray actor around it
    made._events = work(error)
    return made


def test_a_full_disk_is_told_by_the_trial_and_ends_the_search() -> None:
    full = trial(StorageError("cannot write here: No space left; free some space"))
    assert full.step() == {"stage": "convert", "done": False}
    last = full.step()
    assert last["done"]
    jobs = Jobs()
    searcher = JobSearcher(jobs, max_failures=2)
    searcher.suggest("one")
    with pytest.raises(StorageError, match="No space left.*the same command continues"):
        searcher.on_trial_complete("one", last)
    # Tune takes that for an error of the trial's, and tells its end again.
    with pytest.raises(StorageError, match="No space left"):
        searcher.on_trial_complete("one", error=True)
    assert jobs.told == []


def test_other_errors_are_those_of_a_worker_that_dies() -> None:
    broken = trial(RuntimeError("of the machine"))
    broken.step()
    with pytest.raises(RuntimeError, match="of the machine"):
        broken.step()
    jobs = Jobs()
    searcher = JobSearcher(jobs, max_failures=1)
    for attempt in ("one", "two"):
        assert searcher.suggest(attempt) == packed(JOB)
        searcher.on_trial_complete(attempt, error=True)
    assert jobs.told == ["its worker died 2 times"]


def test_a_job_is_read_as_it_was_written_whatever_its_kind() -> None:
    (place,) = packed(JOB)
    assert place == "nas_theseus.values.architecture:Architecture"
    assert unpacked(packed(JOB)) == JOB

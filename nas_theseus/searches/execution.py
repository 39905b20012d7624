"""Protocols between a search and its executor: jobs, workers, and what runs them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, TypeVar

from nas_theseus.values.events import Ended, Reached


class Job(Protocol):
    """The work of one trial; it is sent to a worker as JSON."""

    @property
    def id(self) -> str:
        """The same for the same job on every machine."""

    @property
    def title(self) -> str:
        """What dashboards and callbacks call the job, such as ``block linear for part 1``."""

    def to_json(self) -> Any:
        """Plain values from which `from_json` makes the job."""

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of `to_json`."""


AnyJob = TypeVar("AnyJob", bound=Job)
GivenJob = TypeVar("GivenJob", bound=Job, contravariant=True)


class Jobs(Protocol[AnyJob]):
    """Hands out jobs and handles their ends; called from one thread only."""

    def next(self) -> AnyJob | None:
        """The next job; None if there is none now. Asked again while other jobs run."""

    def reported(self, job: AnyJob, stage: str) -> None:
        """A running job has reached a stage."""

    def ended(self, job: AnyJob, failure: str | None) -> None:
        """A job ended.

        Args:
            failure: why it failed, as its worker said, or that its worker died too often; else
                None. A result that the worker saved takes precedence.
        """


class Worker(Protocol[GivenJob]):
    """Runs jobs one after the other, and saves their results itself."""

    def __call__(self, job: GivenJob) -> Iterator[str | Reached | Ended]:
        """Yields the stages of a job, the rungs where it may be stopped, and its end.

        Raises:
            StorageError: the result cannot be saved. This ends the search, since other jobs could
                not save theirs either.
        """


MakeWorker = Callable[[], Worker[Any]]
Promotes = Callable[[Reached], bool]


class Executor(Protocol):
    """Runs jobs with given resources. Members: `values.registers.EXECUTORS`."""

    @property
    def slots(self) -> int:
        """How many jobs run at once; known once it is open."""

    def check(self) -> None:
        """Refuse resources that this machine does not have; returns at once.

        Raises:
            ServiceError: says what one trial asks for, and what there is.
        """

    def open(self) -> None:
        """Start, or join a cluster; this may take seconds.

        Raises:
            ServiceError: it cannot be started or reached, or lacks what one trial asks for.
        """

    def run(
        self, jobs: Jobs[Any], make_worker: MakeWorker, promotes: Promotes | None = None
    ) -> None:
        """Run jobs until there are no more.

        Args:
            make_worker: called once in each worker process; must pickle.
            promotes: whether a job continues past a rung; None if jobs have no rungs.

        Raises:
            ServiceError: the executor itself stopped.
            StorageError: a result cannot be saved.
        """

    def close(self) -> None:
        """Stop what `open` started."""

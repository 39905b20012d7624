"""What a search asks of those who run its jobs, and what they ask of the search."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol, Self, TypeVar

from nas_theseus.values.events import Ended, Reached


class Job(Protocol):
    """Something that one trial does; it travels to a worker as JSON."""

    @property
    def id(self) -> str:
        """The same for the same job on every machine."""

    def to_json(self) -> Any:
        """Plain values, from which `from_json` makes the job again."""

    @classmethod
    def from_json(cls, data: Any) -> Self:
        """The inverse of `to_json`."""


AnyJob = TypeVar("AnyJob", bound=Job)
GivenJob = TypeVar("GivenJob", bound=Job, contravariant=True)


class Jobs(Protocol[AnyJob]):
    """Hands out jobs and takes their ends; called in one thread."""

    def next(self) -> AnyJob | None:
        """The next job; None when there will be no more (asked again while others run)."""

    def reported(self, job: AnyJob, stage: str) -> None:
        """A running job has reached a stage."""

    def ended(self, job: AnyJob, failure: str | None) -> None:
        """A job ended.

        Args:
            failure: why it failed, where its worker could say so or died more often than allowed;
                a result that the worker saved as a file counts before it.
        """


class Worker(Protocol[GivenJob]):
    """Runs jobs one after the other, and saves their results itself."""

    def __call__(self, job: GivenJob) -> Iterator[str | Reached | Ended]:
        """Yields the stages of a job, the rungs where it may be stopped, and its end.

        Raises:
            StorageError: the result cannot be saved, which ends the search: another job could not
                save its own either.
        """


MakeWorker = Callable[[], Worker[Any]]
GoesOn = Callable[[Reached], bool]


class Executor(Protocol):
    """Runs jobs with given resources. Members: `values.registers.EXECUTORS`."""

    @property
    def slots(self) -> int:
        """How many jobs run at once; known once it is open."""

    def check(self) -> None:
        """Refuse resources that are not here; takes no time.

        Raises:
            ServiceError: what one trial asks for, and what there is.
        """

    def open(self) -> None:
        """Start, or join a cluster; may take seconds.

        Raises:
            ServiceError: it cannot be started or reached, or lacks what one trial asks for.
        """

    def run(self, jobs: Jobs[Any], make_worker: MakeWorker, goes_on: GoesOn | None = None) -> None:
        """Run jobs until there are no more.

        Args:
            make_worker: called once in each worker process; must pickle.
            goes_on: whether a job goes on from a rung; None where jobs have no rungs.

        Raises:
            ServiceError: the executor itself stopped.
            StorageError: a result cannot be saved.
        """

    def close(self) -> None:
        """End what `open` began."""

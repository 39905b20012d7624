"""Events that a running job reports: progress, rungs reached, and the end."""

from __future__ import annotations

from dataclasses import dataclass

from nas_theseus.values.outcomes import BlockOutcome, CurvePoint, Evaluation


@dataclass(frozen=True)
class Progress:
    """Progress within a step of a candidate.

    Attributes:
        step: name of the step.
        points: new points of the candidate's curve.
        macs: multiply-adds that were run.
        block: outcome of a block that had to be converted into the library first.
    """

    step: str
    points: tuple[CurvePoint, ...] = ()
    macs: int = 0
    block: BlockOutcome | None = None


@dataclass(frozen=True)
class Reached:
    """A running candidate reached a rung; its evaluation there is compared with others."""

    rung: str
    evaluation: Evaluation


@dataclass(frozen=True)
class Ended:
    """The last event of a job.

    Attributes:
        failure: reason of the failure; None if the job succeeded.
    """

    failure: str | None = None

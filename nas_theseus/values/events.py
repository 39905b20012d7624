"""What a running job reports: its progress, the rungs it reaches, and its end."""

from __future__ import annotations

from dataclasses import dataclass

from nas_theseus.values.outcomes import BlockOutcome, CurvePoint, Evaluation


@dataclass(frozen=True)
class Progress:
    """One thing that a step of a conversion did.

    Attributes:
        step: the step's name.
        points: new points of the candidate's curve.
        macs: multiply-adds that it ran.
        block: one that had to be converted into the library first.
    """

    step: str
    points: tuple[CurvePoint, ...] = ()
    macs: int = 0
    block: BlockOutcome | None = None


@dataclass(frozen=True)
class Reached:
    """Where a running candidate is compared with others: a rung, and what it is there."""

    rung: str
    evaluation: Evaluation


@dataclass(frozen=True)
class Ended:
    """The last event of a job.

    Attributes:
        failure: why it failed; None when it did not.
    """

    failure: str | None = None

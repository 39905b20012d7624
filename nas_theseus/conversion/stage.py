"""Stages of alignment, and the protocol of schedules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from nas_theseus.errors import ConversionError
from nas_theseus.values.recipe import Order
from nas_theseus.values.registers import SCHEDULES


@dataclass(frozen=True)
class Stage:
    """One stage of alignment over positions of the target.

    Attributes:
        start: first position of the chain; its input is the guide's activation at its inlet.
        stop: position after the end of the chain.
        trained: positions whose parameters are trained, ascending.
        aligned: positions whose outlets are compared with the guide's; the loss is their mean.
        stitched: position to bring into the guide's basis afterwards; None for none.
        replaced: positions that have replaced guide parts when the stage ends.
    """

    start: int
    stop: int
    trained: tuple[int, ...]
    aligned: tuple[int, ...]
    stitched: int | None
    replaced: tuple[int, ...]


class Schedule(Protocol):
    """The stages in which the blocks of a target are aligned with the guide.

    The package's schedules are the files of `schedules/`. A space file adds its own with
    ``Recipe(schedule=MySchedule())``; a class derived from this one only needs a name and stages.

    Attributes:
        name: name in recipes and messages.
        is_control: whether this is an ablation that aligns nothing with the guide; ablations use no
            blocks from the library.
        fresh: whether every part of the target, including kept ones, starts from random weights.
        taught: whether task training can distil from the guide's logits.
    """

    name: str
    is_control: bool = False
    fresh: bool = False
    taught: bool = True

    def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
        """The stages for one target.

        Args:
            order: forward (input to output) or reverse.
            replaced: positions of the target that are not kept and have parameters, ascending; at
                least one.
        """
        ...


def stages(schedule: str, order: Order, replaced: Sequence[int]) -> list[Stage]:
    """The checked stages of a schedule by name; none if nothing is replaced.

    Args:
        schedule: a name from the register, as in recipes.
        order: forward (input to output) or reverse.
        replaced: positions of the target that are not kept and have parameters, ascending.

    Raises:
        UnknownNameError: no schedule has this name.
        ConversionError: a stage cannot be run.

    Source: Network of Theseus, arXiv:2512.04198, figures 1, 2 and 4. In reverse order a stage's
    chain runs from the newest block to the last one replaced, fed by the guide; a single frozen
    follower expects the guide's basis, so the newest block is stitched when it alone trains, the
    chain's exit when all do (ours).
    """
    if not replaced:
        return []
    found: list[Stage] = list(SCHEDULES[schedule].stages(order, tuple(replaced)))
    for number, stage in enumerate(found):
        if mistake := _mistake(stage, set(replaced)):
            raise ConversionError(f"schedule {schedule!r}: stage {number} {mistake}; got {stage}")
    return found


def one_by_one(order: Order, replaced: Sequence[int]) -> Iterator[tuple[int, tuple[int, ...]]]:
    """Each position in replacement order, with all positions replaced by then, ascending."""
    newest_first = replaced if order == "forward" else replaced[::-1]
    for index, newest in enumerate(newest_first):
        yield newest, tuple(sorted(newest_first[: index + 1]))


def runs_from(stage: Stage, before: Stage | None) -> int:
    """The first block of a stage's chain that has to run again for the whole sample.

    Args:
        before: the aligned stage before, whose frozen blocks have run; None if they have been
            trained since.
    """
    if before is None or before.start != stage.start or before.trained[0] > stage.trained[0]:
        return stage.start
    return before.trained[0]


def _mistake(stage: object, replaced: set[int]) -> str | None:
    """Why alignment cannot run a stage; None if it can."""
    if not isinstance(stage, Stage):
        return "is not a Stage (nas_theseus.conversion.stage)"
    stitched = set() if stage.stitched is None else {stage.stitched}
    named = {*stage.trained, *stage.aligned, *stitched}
    if strange := sorted((named | {*stage.replaced}) - replaced):
        return f"names positions {strange}, but the new blocks are at {sorted(replaced)}"
    if outside := sorted(p for p in named if not stage.start <= p < stage.stop):
        return f"names positions {outside} outside its chain from {stage.start} to {stage.stop}"
    if list(stage.trained) != sorted(stage.trained):
        return "must name the trained positions in ascending order"
    if bool(stage.trained) != bool(stage.aligned):
        return "must name both trained and aligned positions, or neither"
    if stage.aligned and max(stage.aligned) < stage.trained[0]:
        return (
            "aligns only positions before those that it trains, so the loss does not depend on them"
        )
    return None

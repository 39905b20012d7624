"""Stages: what one step of a schedule trains, compares and stitches."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nas_theseus.values.recipe import Order, Schedule


@dataclass(frozen=True)
class Stage:
    """One stage of alignment over positions of the target.

    Attributes:
        start: the chain begins here, fed by the guide's activation at this block's inlet.
        stop: the chain ends before this position.
        trained: positions whose parameters move.
        aligned: positions whose outlets are compared with the guide's; the loss is their mean.
        stitched: the position that is brought into the guide's basis afterwards; None for none.
        replaced: positions that have been replaced when the stage ends.
    """

    start: int
    stop: int
    trained: tuple[int, ...]
    aligned: tuple[int, ...]
    stitched: int | None
    replaced: tuple[int, ...]


def stages(schedule: Schedule, order: Order, replaced: Sequence[int]) -> list[Stage]:
    """The stages of a schedule.

    Args:
        schedule: progressive (the replaced prefix stays trainable), sequential (earlier
            replacements frozen), independent (each alone), joint (all at once), naive (put in one
            after the other, nothing aligned); scratch and kd have no stage.
        order: forward (input to output) or reverse.
        replaced: positions of the target that are not kept and have parameters, ascending.

    Source: Network of Theseus, arXiv:2512.04198, figures 1, 2 and 4. That the whole prefix stays
    trainable in `progressive` is our reading. In reverse order a stage's chain runs from the
    newest block to the last one replaced, fed by the guide; a single frozen follower expects the
    guide's basis, so the newest block is stitched when it alone trains, the chain's exit when all
    do (ours).
    """
    if not replaced or schedule in ("scratch", "kd"):
        return []
    everything = tuple(replaced)
    if schedule == "joint":
        first, last = everything[0], everything[-1]
        return [Stage(first, last + 1, everything, everything, last, everything)]
    newest_first = everything if order == "forward" else everything[::-1]
    found = []
    for index, newest in enumerate(newest_first):
        done = tuple(sorted(newest_first[: index + 1]))
        alone = (newest,)
        if schedule == "naive":
            found.append(Stage(newest, newest + 1, (), (), None, done))
        elif schedule == "independent":
            found.append(Stage(newest, newest + 1, alone, alone, newest, done))
        elif schedule == "progressive":
            found.append(Stage(done[0], done[-1] + 1, done, done, done[-1], done))
        else:  # sequential
            aligned = alone if order == "forward" else done
            found.append(Stage(done[0], done[-1] + 1, alone, aligned, newest, done))
    return found


def runs_from(stage: Stage, before: Stage | None) -> int:
    """The first block of a stage's chain that has to run anew for the whole sample.

    Args:
        before: the aligned stage before, whose frozen blocks have run; None where they have been
            trained since.
    """
    if before is None or before.start != stage.start or before.trained[0] > stage.trained[0]:
        return stage.start
    return before.trained[0]

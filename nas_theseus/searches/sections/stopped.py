"""What was stopped at which rung, and what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from nas_theseus.pictures.page import Paragraph, Piece, Table
from nas_theseus.searches.figures import number, short_count
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section
from nas_theseus.values.outcomes import Failure, Outcome, Stopped
from nas_theseus.values.rung import Rung


def write(records: Records) -> Sequence[Piece]:
    """Tables of rungs, stopped candidates, and failures of candidates and blocks."""
    return [*_at_rungs(records), *_failed(records)]


def _at_rungs(records: Records) -> list[Piece]:
    if not records.stopped:
        reason = "" if records.begun.rungs else ": it was told not to (--no-rungs)"
        return [Paragraph(f"The search has stopped no candidate early{reason}.")]
    rows = []
    for rung in records.rungs:
        here = [one for one in records.stopped if one.rung == rung.name]
        reached = sum(_reached(one, rung) for one in records.outcomes)
        saved = short_count(sum(one.macs_saved for one in here))
        rows.append([rung.name, str(reached), str(len(here)), saved])
    metric = next(iter(records.stopped[0].predicted), "quality")
    return [
        Paragraph(
            "A rung is a point in training where candidates are compared. Those that fall behind "
            "are stopped there, and never are on the front; their final quality is predicted."
        ),
        Table("Rungs", ["rung", "reached", "stopped there", "training MACs saved"], rows),
        Table(
            "Stopped candidates",
            ["network", "stopped at", f"{metric} there", "predicted at the end", "MACs saved"],
            [
                [
                    one.architecture.id,
                    one.rung,
                    number(one.evaluation.metrics.get(metric)),
                    number(one.predicted.get(metric)),
                    short_count(one.macs_saved),
                ]
                for one in records.stopped
            ],
        ),
    ]


def _reached(outcome: Outcome, rung: Rung) -> bool:
    if isinstance(outcome, Failure):
        return False
    evaluation = outcome.evaluation if isinstance(outcome, Stopped) else outcome
    return rung.quality(evaluation) is not None


def _failed(records: Records) -> list[Piece]:
    blocks = [block for block in records.blocks if block.failure is not None]
    if not records.failures and not blocks:
        return [Paragraph("No candidate and no block failed.")]
    reasons = Counter((one.stage, one.message) for one in records.failures)
    pieces: list[Piece] = []
    if reasons:
        rows = [
            [message, stage, str(count)]
            for (stage, message), count in sorted(reasons.items(), key=lambda item: -item[1])
        ]
        pieces.append(Table("Failed candidates", ["reason", "step", "candidates"], rows))
    if blocks:
        rows = [[block.name, str(block.failure)] for block in blocks]
        pieces.append(Table("Blocks that could not be converted", ["block", "reason"], rows))
    return pieces


MEMBER = Section("What was stopped, and what failed", 50, write)

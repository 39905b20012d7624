"""What the search cost: multiply-adds, seconds, and energy where it was read."""

from __future__ import annotations

from collections.abc import Sequence

from nas_theseus.pictures.page import Paragraph, Piece, Table
from nas_theseus.searches.figures import duration, energy_of, short_count
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section


def write(records: Records) -> Sequence[Piece]:
    """A table of candidates and blocks."""
    if not records.outcomes and not records.blocks:
        return [Paragraph("Nothing has been trained yet.")]
    stopped = [one.evaluation for one in records.stopped]
    converted = [block for block in records.blocks if block.failure is None]
    kinds = [
        (
            "candidates that finished",
            len(records.evaluations),
            sum(one.train_macs_spent for one in records.evaluations),
            sum(one.seconds for one in records.evaluations),
        ),
        (
            "candidates stopped early",
            len(stopped),
            sum(one.train_macs_spent for one in stopped),
            sum(one.seconds for one in stopped),
        ),
        (
            "blocks converted",
            len(converted),
            sum(block.macs for block in converted),
            sum(block.seconds for block in converted),
        ),
    ]
    macs, seconds = sum(kind[2] for kind in kinds), sum(kind[3] for kind in kinds)
    rows = [
        [name, str(count), short_count(work), duration(time)] for name, count, work, time in kinds
    ]
    number = sum(kind[1] for kind in kinds)
    rows.append(["together", str(number), short_count(macs), duration(seconds)])
    columns = ["what", "number", "training MACs", "seconds of work"]
    return [Table("Work", columns, rows), Paragraph(_beside(records))]


def _beside(records: Records) -> str:
    results = [*records.outcomes, *records.blocks]
    last = max(records.elapsed(one) for one in results)
    said = [
        f"From the beginning to the last result it took {duration(last)}, pauses included; trials "
        "that run side by side make this less than the sum of their work."
    ]
    saved = sum(one.macs_saved for one in records.stopped)
    if saved:
        said.append(f"Stopping candidates early saved {short_count(saved)} MACs.")
    if reused := records.summary.get("blocks_reused"):
        macs = short_count(records.summary.get("blocks_reused_macs", 0.0))
        said.append(f"{reused:.0f} blocks came from the library, which saved {macs} MACs.")
    if records.failures:
        said.append(f"The work of {len(records.failures)} failed candidates is not recorded.")
    said.append("The training of the guide is not recorded.")
    said.append(_energy(records))
    return " ".join(said)


def _energy(records: Records) -> str:
    energy = records.energy
    if energy is None:
        return "Energy is not recorded: no counter of the driver's machine could be read."
    each = " and ".join(f"{kind} took {energy_of(j)}" for kind, j in energy.joules.items())
    return (
        f"On the driver's machine {each} in {energy.launches} launches of the search, with "
        "everything else that ran there; other machines are not counted."
    )


MEMBER = Section("What the search cost", 110, write)

"""``nas-theseus check``: every mistake of a search space."""

from __future__ import annotations

from rich.console import Console

from nas_theseus.cli.options import SpaceFile


def command(space: SpaceFile) -> None:
    """Every mistake of a search space at once, before any training; its size and cost range."""
    from nas_theseus.cli.tables import figure, plain_table
    from nas_theseus.costs.table import CostTable
    from nas_theseus.searches.beginning import refuse_mistakes
    from nas_theseus.space.left_out import left_out
    from nas_theseus.space.load import load_space

    found = load_space(space)
    refuse_mistakes(found, str(space))
    found.task.data_hash()
    table = CostTable(found)
    guide = table.of_parts().known()
    rows = [
        [name, *(figure(name, value) for value in (*table.range(name), guide[name]))]
        for name in table.names
    ]
    console = Console()
    console.print(f"{space}: no mistakes; {found.count():,} architectures", highlight=False)
    if note := getattr(found.task, "note", None):
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    for line in left_out(found):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    console.print(plain_table("cost range", ["cost", "cheapest", "dearest", "guide"], rows))
    if by_block := found.measured_by_block:
        console.print(
            f"measured block by block when a search begins: {', '.join(by_block)}", highlight=False
        )

"""Commands of ``nas-theseus library``: list, check and prune converted blocks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

if TYPE_CHECKING:
    from rich.table import Table

    from nas_theseus.library.record import Record
    from nas_theseus.library.store import Library

group = typer.Typer(
    no_args_is_help=True,
    help="The store of converted blocks in STORAGE/library, which searches fill and use.",
)

StorageOption = Annotated[
    Path, typer.Option("--storage", help="Folder whose library/ holds the blocks.")
]
DEFAULT_STORAGE = Path("theseus")


@group.command("ls")
def list_blocks(storage: StorageOption = DEFAULT_STORAGE) -> None:
    """Every block: the guide parts it stands for, its errors, MACs to make it, size and age.

    The error is the share of the guide's variance behind the block that it leaves unexplained. The
    divergence is that of the guide's outputs with this one block in it, on validation data.
    """
    records = list(_library(storage).entries())
    Console().print(_table(records, f"library in {storage}: {len(records)} blocks"))


@group.command()
def verify(storage: StorageOption = DEFAULT_STORAGE) -> None:
    """Read every block; damaged ones are set aside, to be made again, and the exit code is 1."""
    found = _library(storage).verify()
    console = Console()
    for damaged in found.set_aside:
        console.print(
            f"set aside {damaged.id}: {damaged.reason}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )
    console.print(
        f"{found.sound} blocks are sound, {len(found.set_aside)} set aside in "
        f"{storage / 'library' / 'damaged'}, {found.leftovers} files left by writers",
        highlight=False,
        soft_wrap=True,
    )
    if found.set_aside:
        raise typer.Exit(1)


@group.command()
def prune(
    older_than: Annotated[
        float | None, typer.Option(help="Remove blocks made more than so many days ago.", min=0)
    ] = None,
    guide: Annotated[
        str | None, typer.Option(help="Remove blocks of this guide: beginning of its hash in ls.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be removed.")] = False,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Remove blocks by age, guide or both, and files that killed writers left a day ago."""
    from datetime import timedelta

    age = None if older_than is None else timedelta(days=older_than)
    found = _library(storage).prune(older_than=age, guide=guide, dry_run=dry_run)
    console = Console()
    if found.records:
        console.print(_table(list(found.records), "blocks"))
    done = "would be removed" if dry_run else "removed"
    size = sum(record.size_bytes for record in found.records)
    console.print(
        f"{done}: {len(found.records)} blocks ({size:,} bytes), {len(found.leftovers)} files left "
        "by writers",
        highlight=False,
    )


def _library(storage: Path) -> Library:
    from nas_theseus.library.store import Library

    return Library(storage / "library", create=False)


def _table(records: list[Record], title: str) -> Table:
    from datetime import UTC, datetime

    from nas_theseus.cli.tables import figure, plain_table
    from nas_theseus.searches.figures import short_count

    now = datetime.now(UTC)
    columns = ["block", "parts", "guide", "error", "divergence", "MACs", "bytes", "days"]
    rows = [
        [
            f"{record.key.choice} → {record.key.outlet.width}",
            str(record.key.span),
            record.key.guide[:8],
            f"{record.facts.residual:.4f}",
            figure("divergence", record.facts.divergence),
            short_count(record.facts.macs),
            short_count(record.size_bytes),
            f"{(now - record.made).total_seconds() / 86400:.1f}",
        ]
        for record in sorted(records, key=lambda r: (r.key.guide, r.key.span, str(r.key.choice)))
    ]
    return plain_table(title, columns, rows)

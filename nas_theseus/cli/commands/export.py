"""``nas-theseus export``: a found network as one checked file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_theseus.cli.options import DEFAULT_STORAGE, StorageOption
from nas_theseus.values.registers import FORMATS


def command(
    network: Annotated[
        str,
        typer.Argument(
            metavar="RUN|PATH",
            help="MLflow run of a front member, its architecture id, or the folder of a network.",
        ),
    ],
    to: Annotated[str, typer.Option("--format", help=f"{FORMATS.one_of}.")],
    out: Annotated[
        Path | None, typer.Option(help="File; the architecture's id in this folder by default.")
    ] = None,
    trust_code: Annotated[
        bool, typer.Option("--trust-code", help="Consent to run the network's own space.py.")
    ] = False,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a found network as one file, kept only if it gives what the network gives."""
    from nas_theseus.api.found import find_network
    from nas_theseus.export.formats import format_of, write_format

    chosen = format_of(to)  # before minutes of download
    member = find_network(network, storage, trust_code=trust_code)
    path = out or Path(f"{member.evaluation.architecture.id}{chosen.suffix}")
    checked = write_format(member, to, path)
    batches = " and ".join(map(str, checked.batch_sizes))
    print(
        f"{checked.path}: {checked.size_bytes:,} bytes\n"
        f"checked on {checked.examples} validation inputs in batches of {batches}: outputs differ "
        f"by at most {checked.difference:.3g} ({checked.relative:.3g} of the largest output)"
    )

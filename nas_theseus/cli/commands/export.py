"""``nas-theseus export``: a found network as one checked file or folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_theseus.cli.options import DEFAULT_STORAGE, StorageOption, TrustOption
from nas_theseus.values.registers import FORMATS


def command(
    network: Annotated[
        str,
        typer.Argument(
            metavar="NETWORK",
            help="ID or SEARCH/ID of a network on a front, its MLflow run id, or its folder.",
        ),
    ],
    to: Annotated[
        str, typer.Option("--format", help=f"{FORMATS.one_of}, or one that its space file adds.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="The file or folder. Default: named after the architecture's id, here."),
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="huggingface: folder of the tokenizer. Default: the guide's, or the task's."
        ),
    ] = None,
    dtype: Annotated[
        str | None,
        typer.Option(
            help="huggingface: weights in float32 or bfloat16; onnx: float32 or int8. Default: "
            "float32."
        ),
    ] = None,
    trust_code: TrustOption = False,
    storage: StorageOption = DEFAULT_STORAGE,
) -> None:
    """Write a found network for other tools; kept only if its outputs are the network's."""
    from nas_theseus.api.export import export

    checked = export(
        network,
        to,
        out=out,
        storage=storage,
        trust_code=trust_code,
        tokenizer=tokenizer,
        dtype=dtype,
    )
    batches = " and ".join(map(str, checked.batch_sizes))
    print(
        f"{checked.path}: {checked.size_bytes:,} bytes\n"
        f"checked on {checked.examples} validation inputs in batches of {batches}: outputs differ "
        f"by at most {checked.difference:.3g} ({checked.relative:.3g} of the largest output)"
    )
    for name, (before, after) in checked.quality.items():
        print(f"validation {name}: {before:.4g}, of the file {after:.4g}")

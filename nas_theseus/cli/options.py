"""Arguments and options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nas_theseus.values.registers import EXECUTORS

DEFAULT_STORAGE = Path("theseus")

SpaceFile = Annotated[Path, typer.Argument(help="Python file with a function space().")]
StorageOption = Annotated[
    Path, typer.Option("--storage", help="Folder for guides, blocks, searches and results.")
]
StudyOption = Annotated[
    str | None,
    typer.Option(
        envvar="NAS_THESEUS_STUDY",
        show_envvar=True,
        help="Optuna storage URL. Default: a journal file in the search's folder.",
    ),
]
LibraryOption = Annotated[
    str | None,
    typer.Option(
        metavar="LOCATION",
        help="Where converted blocks are stored: a folder or an fsspec address. "
        "Default: STORAGE/library.",
    ),
]
TrustOption = Annotated[
    bool,
    typer.Option(
        "--trust-code", help="Allow the space file to run although it may not be your own."
    ),
]
ParallelOption = Annotated[
    str,
    typer.Option(
        metavar="N|auto",
        help="Trials at once; auto: as many as there is room for.",
    ),
]
ExecutorOption = Annotated[
    str,
    typer.Option(help=f"What runs the trials: {EXECUTORS.one_of} (inline: in this process)."),
]
AddressOption = Annotated[
    str | None, typer.Option(help="Ray cluster to join, such as auto. Default: this machine.")
]
CpusOption = Annotated[float, typer.Option(help="CPU cores of one trial.")]
GpusOption = Annotated[float, typer.Option(help="GPUs of one trial; 0.5 puts two on one GPU.")]
AcceleratorOption = Annotated[
    str | None,
    typer.Option(help="Use GPUs of this type only, as Ray names it: A100, H100, T4. Default: any."),
]
LabelsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--label-selector",
        metavar="KEY=VALUE",
        help="Run trials on Ray nodes with this label only; VALUE may be !value or in(a, b). "
        "May be repeated.",
    ),
]
RuntimeEnvOption = Annotated[
    Path | None,
    typer.Option(
        "--runtime-env",
        metavar="FILE",
        help="Ray runtime environment of all workers: a YAML or JSON file.",
    ),
]
SettingsOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Change a setting; may be repeated."),
]

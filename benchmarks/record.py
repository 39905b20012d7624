"""What every benchmark writes beside its figures: command, versions, machine, commit."""

from __future__ import annotations

import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from nas_theseus.storage.whole_files import write_json

RESULTS = Path(__file__).parent / "results"


def write_record(
    name: str,
    figures: Mapping[str, float | int | None],
    cells: Sequence[Mapping[str, Any]],
    seeds: Sequence[int],
    notes: Mapping[str, str],
    packages: Sequence[str] = ("torch", "ray", "optuna", "mlflow", "fvcore"),
    program: str | None = None,
) -> Path:
    """Write ``results/<name>.json``; a figure that is None must have a note.

    Args:
        program: what its options were given to; the benchmark of that name by default.

    Raises:
        ValueError: a figure was not measured and no note says why.
    """
    silent = [key for key, value in figures.items() if value is None and key not in notes]
    if silent:
        raise ValueError(f"figures without a value need a note: {', '.join(silent)}")
    program = program or f"python -m benchmarks.{name}"
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    path = RESULTS / f"{name}.json"
    write_json(
        path,
        {
            "figures": dict(figures),
            "notes": dict(notes),
            "command": f"{program} {shlex.join(sys.argv[1:])}".strip(),
            "seeds": list(seeds),
            "versions": {"python": platform.python_version(), **{p: version(p) for p in packages}},
            "machine": {"cores": os.cpu_count(), "accelerator": accelerator},
            "commit": commit(),
            "cells": [dict(cell) for cell in cells],
        },
    )
    return path


def figure_table(figures: Mapping[str, float | int | None], notes: Mapping[str, str]) -> list[str]:
    """Lines of a Markdown table of figures, with their notes."""
    rows = [
        f"| `{name}` | {'–' if value is None else f'{value:.4g}'}"
        + (f" ({notes[name]})" if name in notes else "")
        + " |"
        for name, value in figures.items()
    ]
    return ["| figure | value |", "|---|---|", *rows]


def commit() -> str:
    """The commit that is checked out, marked when files differ but for what benchmarks write."""

    def git(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["git", *words],
            cwd=Path(__file__).parents[1],
            capture_output=True,
            text=True,
            check=False,
        )

    found = git("rev-parse", "--short=12", "HEAD").stdout.strip()
    written = (":!benchmarks/results", ":!docs")
    changed = git("diff", "--quiet", "HEAD", "--", ".", *written).returncode == 1
    return f"{found}{'-dirty' * changed}" or "unknown"

"""The command line: ``nas-theseus COMMAND``; each command is a file of `nas_theseus.cli.commands`.

torch, Ray and MLflow take seconds to import, so commands import what they need; --help is quick.
"""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from typing import Annotated

import typer
from rich.console import Console

from nas_theseus.cli import commands

HELP = """
Find the best networks for other budgets by converting one that works (the guide), block by block,
instead of training each candidate from scratch.

Start with: nas-theseus new my_space.py. Then: nas-theseus search my_space.py, nas-theseus front
my_space, and nas-theseus ui. Where something does not work: nas-theseus doctor.

Everything is stored under --storage (./theseus): guides/ holds trained guides, library/ converted
blocks, and searches/NAME/ the study, evaluations, weights and the front. MLflow's records go to
./mlflow.db and ./mlruns, or to MLFLOW_TRACKING_URI.
"""


def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Options before the command."""
    if debug:
        os.environ["NAS_THESEUS_DEBUG"] = "1"


def make_app() -> typer.Typer:
    """The command line with every command of the folder.

    A command's module has a function `command`, or a group of commands, `group`.
    """
    made = typer.Typer(
        no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False, help=HELP
    )
    made.callback(help=HELP)(options)
    for found in pkgutil.iter_modules(commands.__path__):
        module = importlib.import_module(f"{commands.__name__}.{found.name}")
        if hasattr(module, "group"):
            made.add_typer(module.group, name=found.name)
        else:
            made.command(found.name)(module.command)
    return made


def main() -> None:
    """Entry point: errors a user can mend are printed without a traceback and exit with 2."""
    from nas_theseus.errors import TheseusError

    try:
        make_app()()
    except TheseusError as error:
        if os.environ.get("NAS_THESEUS_DEBUG"):
            raise
        # Not wrapped: a command or path in a message can be copied in one piece.
        Console(stderr=True).print(
            f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(2)

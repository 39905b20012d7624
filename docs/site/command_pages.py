"""The page of commands, from the command line itself: what ``--help`` says, as tables."""

from __future__ import annotations

import html
import inspect
from collections.abc import Iterator
from typing import Any

import typer
import typer.main

from nas_theseus.cli.app import HELP, make_app

PROGRAM = "nas-theseus"


def commands_page() -> str:
    """Every command with its arguments and options."""
    pieces = ["# Commands", HELP.strip(), *all_commands()]
    return "\n\n".join(pieces) + "\n"


def all_commands() -> Iterator[str]:
    """The sections of the page, one a command; a group's commands each have their own."""
    group: Any = typer.main.get_command(make_app())
    for name, command in group.commands.items():
        if inner := getattr(command, "commands", None):
            for own, each in inner.items():
                yield section(f"{PROGRAM} {name} {own}", each)
        else:
            yield section(f"{PROGRAM} {name}", command)


def section(call: str, command: Any) -> str:
    """One command: usage, what it does, its arguments and options."""
    context = typer.Context(command, info_name=call)
    records = [p.get_help_record(context) for p in command.params]
    arguments = [
        p.metavar or p.name.upper() for p in command.params if p.param_type_name == "argument"
    ]
    rows = [
        f"| <code>{html.escape(name).replace('|', '&#124;')}</code> | {cell(said)} |"
        for name, said in filter(None, records)
    ]
    return "\n\n".join(
        [
            f"## {call}",
            inspect.cleandoc(command.help or ""),
            f"```text\n{' '.join([call, *arguments])} [OPTIONS]\n```",
            "\n".join(["| argument or option | what it is |", "|---|---|", *rows]),
        ]
    )


def cell(text: str) -> str:
    """Text that may stand in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|")

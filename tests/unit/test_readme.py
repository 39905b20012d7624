"""The README is short, and what it names exists: commands, files, links and make targets."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import typer.main

import nas_theseus
from nas_theseus.cli.app import make_app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
GROUP = typer.main.get_command(make_app())
COMMANDS = GROUP.commands  # type: ignore[attr-defined]


def test_the_readme_is_read_in_one_go() -> None:
    assert len(README.split()) <= 1000


def test_every_command_is_in_the_table_and_every_command_named_exists() -> None:
    assert set(re.findall(r"^\| `([a-z]+)` \|", README, re.MULTILINE)) == set(COMMANDS)
    assert set(re.findall(r"(?:^|`)nas-theseus ([a-z]+)", README, re.M)) <= set(COMMANDS)


def test_every_option_has_a_help_text() -> None:
    for name, command in COMMANDS.items():
        for each in getattr(command, "commands", {name: command}).values():
            lacking = [p.name for p in each.params if not getattr(p, "help", None)]
            assert lacking == [], f"{name} {each.name}"
            assert each.help, f"{name} {each.name}"


def test_options_that_the_readme_and_the_guides_name_exist() -> None:
    every = [
        c
        for command in COMMANDS.values()
        for c in getattr(command, "commands", {"": command}).values()
    ]
    known = {option for command in every for p in command.params for option in p.opts}
    pages = [ROOT / "README.md", *(ROOT / "docs" / "guides").glob("*.md")]
    for page in pages:
        for line in re.findall(
            r"^ *nas-theseus .*", page.read_text(encoding="utf-8"), re.MULTILINE
        ):
            named = set(re.findall(r" (--[a-z-]+)", line.partition("#")[0]))
            assert named <= known, f"{page.name}: {line}"


def test_files_that_the_readme_links_or_names_exist() -> None:
    links = re.findall(r"\]\((?!http)([^)#]+)", README)
    assert len(links) > 10
    for name in (*links, *re.findall(r"(?:search_spaces|docs)/[\w/-]+\.(?:py|md|png)", README)):
        assert (ROOT / name).exists(), name


def test_python_of_the_readme_can_be_parsed_and_its_names_exist() -> None:
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    for text in blocks:
        ast.parse(text)
        for name in re.findall(r"nas_theseus\.(\w+)\(", text):
            assert hasattr(nas_theseus, name), name


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^make ([a-z]+)", README, re.MULTILINE))
    assert targets == {"demo", "test"}
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

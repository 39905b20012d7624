"""The README tells the truth: its file tree, its commands, its options."""

from __future__ import annotations

import re
from pathlib import Path

import typer.main

from nas_theseus.cli.app import make_app

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_module_is_in_the_tree_and_every_name_of_the_tree_exists() -> None:
    tree = README.split("## What is where")[1].split("```")[1]
    named = set(re.findall(r"(?<![\w/])([a-z_]+\.py)", tree))
    there = {path.name for path in (ROOT / "nas_theseus").glob("*.py")} - {"__init__.py"}
    assert named == there
    folders = {
        path.name for path in (ROOT / "nas_theseus").iterdir()
        if path.is_dir() and (path / "__init__.py").exists()
    }  # fmt: skip
    assert folders <= set(re.findall(r"^  ([a-z_]+)/", tree, re.MULTILINE))
    for name in re.findall(r"^([a-z_]+)/", tree, re.MULTILINE):
        assert (ROOT / name).is_dir(), name


def test_every_command_and_search_option_is_in_the_readme() -> None:
    group = typer.main.get_command(make_app())
    commands = group.commands  # type: ignore[attr-defined]
    for name in commands:
        assert f"| `{name}" in README, name
    told = set(re.findall(r"--[a-z-]+", README.split("| `search SPACE.py`")[1].split("\n")[0]))
    options = {o for p in commands["search"].params for o in p.opts if o.startswith("--")}
    assert told == options - {"--help"}


def test_files_the_readme_links_exist() -> None:
    for link in re.findall(r"\]\((?!http)([^)]+)\)", README):
        assert (ROOT / link).exists(), link
    for name in re.findall(r"(?:search_spaces|docs)/[a-z_-]+\.(?:py|md|png)", README):
        assert (ROOT / name).exists(), name


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in set(re.findall(r"make ([a-z]+)", README)):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

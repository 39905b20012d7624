"""Every block of code of README, tutorial and guides runs or is checked, or says why not."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest
import typer
import typer.main
from packaging.requirements import Requirement

from nas_theseus.cli.app import make_app
from tests.unit.pages.blocks import BLOCKS, PAGES, ROOT, Block, blocks_of, fences
from tests.unit.pages.run import SMALLER

# Its blocks are one session from top to bottom, run by tests/integration/test_tutorial.py.
TUTORIAL = "docs/tutorial.md"
PYTHON = [block for block in BLOCKS if block.language == "python"]
RUN = [block for block in PYTHON if not block.left_out and block.page != TUTORIAL]
CONSOLE = [block for block in BLOCKS if block.language == "bash" and not block.left_out]
# Blocks that no test runs; the reason stands before each of them.
NOT_RUN = {
    "docs/guides/bring-your-own.md": 2,
    "docs/guides/export.md": 1,
    "docs/guides/gpu.md": 1,
    "docs/guides/language-models.md": 2,
    "docs/guides/stitching.md": 1,
    "docs/guides/vision.md": 2,
}
GROUP: Any = typer.main.get_command(make_app())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


class UnknownLineError(Exception):
    """A line of a console block that is not recognised, or is wrong."""


def lines_of(text: str) -> list[list[str]]:
    """The commands of a console block as words, without comments; a backslash joins lines."""
    joined = text.replace("\\\n", " ")
    split = [shlex.split(line, comments=True) for line in joined.splitlines()]
    return [words for words in split if words]


def check_line(words: list[str], page: str) -> None:
    """Recognise one command of a console block.

    Raises:
        UnknownLineError: it is of no known kind, or names what does not exist.
    """
    program, *rest = words
    if program == "nas-theseus":
        parse(rest)
    elif program == "make":
        missing = [t for t in rest if not re.search(rf"^{t}:", MAKEFILE, re.MULTILINE)]
        if missing or not rest:
            raise UnknownLineError(f"make has no target {missing}")
    elif program == "pip" and rest[:1] == ["install"]:
        for given in (word for word in rest[1:] if not word.startswith("-")):
            wanted = Requirement(given)
            extras = wanted.extras - set(PROJECT["optional-dependencies"])
            if wanted.name == PROJECT["name"] and extras:
                raise UnknownLineError(f"{wanted.name} has no extra {sorted(extras)}")
    elif program == "python" and rest[:1] == ["-m"]:
        if importlib.util.find_spec(rest[1]) is None:
            raise UnknownLineError(f"no module {rest[1]}")
    elif program == "python" and rest:
        texts = [b.text for b in PYTHON if b.page == page]
        if not any(text.startswith(f"# {rest[0]}\n") for text in texts):
            raise UnknownLineError(f"no block of {page} is the file {rest[0]}")
    elif program == "export":
        if not re.fullmatch(r"\w+=\S+", " ".join(rest)):
            raise UnknownLineError(" ".join(words))
    elif program == "curl":
        if not re.match(r"(?:https?://|127\.0\.0\.1)", rest[0] if rest else ""):
            raise UnknownLineError(" ".join(words))
    elif program not in entry_points(group="console_scripts").names:
        raise UnknownLineError(" ".join(words))


def parse(words: list[str]) -> None:
    """Let the real command line parse what follows `nas-theseus`; nothing runs.

    Raises:
        UnknownLineError: a command, an argument or an option is wrong.
    """
    command, given = GROUP, list(words)
    parent: typer.Context | None = None
    while hasattr(command, "commands"):
        if not given or given[0] not in command.commands:
            raise UnknownLineError(f"no such command: {' '.join(words)}")
        parent = typer.Context(command, info_name=given[0], parent=parent)
        command = command.commands[given.pop(0)]
    try:
        command.make_context(words[0], given, parent=parent)
    except Exception as error:  # of typer's own copy of click, or of click
        raise UnknownLineError(f"nas-theseus {' '.join(words)}: {error}") from error


def run(pages: Iterable[str], slow: bool, folder: Path) -> dict[str, str | None]:
    """Run the Python blocks of the pages in a process of their own, in an empty folder."""
    given = {
        page: [b.plain() for b in RUN if b.page == page and (slow or not b.slow)] for page in pages
    }
    work = folder / "work"
    work.mkdir()
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
    own |= {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "XDG_STATE_HOME": str(folder / "state"),
        "XDG_CACHE_HOME": str(folder / "cache"),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-m", "tests.unit.pages.run", str(folder / "said.json")],
        input=json.dumps(given),
        cwd=work,
        env=own,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    said: dict[str, str | None] = json.loads((folder / "said.json").read_text(encoding="utf-8"))
    return said


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
    """What went wrong on each page with blocks that are quick."""
    return run(sorted({b.page for b in RUN if not b.slow}), False, tmp_path_factory.mktemp("quick"))


def test_all_blocks_are_found_and_each_is_of_a_known_kind() -> None:
    for page in PAGES:
        assert 2 * len(list(blocks_of(page))) == fences(page), page
    kinds = Counter(block.language for block in BLOCKS)
    assert set(kinds) <= {"python", "bash", "json", "text", ""}, kinds  # "" is text
    assert kinds["python"] > 30 and kinds["bash"] > 15
    for block in BLOCKS:
        if block.language == "json":
            json.loads(block.text)


def test_blocks_that_are_not_run_are_counted_and_say_why() -> None:
    marked = [block for block in BLOCKS if block.left_out]
    assert [str(block) for block in marked if not block.reason] == []
    assert Counter(block.page for block in marked) == NOT_RUN
    for block in marked:
        for path in re.findall(r"tests/[\w/]+(?:\.py)?", block.reason or ""):
            assert (ROOT / path).exists(), f"{block}: {path}"


@pytest.mark.parametrize("block", PYTHON, ids=str)
def test_python_compiles(block: Block) -> None:
    ast.parse(block.text)


@pytest.mark.parametrize("block", CONSOLE, ids=str)
def test_lines_for_the_console_are_what_the_command_line_takes(block: Block) -> None:
    lines = lines_of(block.text)
    assert lines
    for words in lines:
        check_line(words, block.page)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_inside_sentences_exist_with_their_options(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for given in re.findall(r"`nas-theseus (\w[^`]*)`", text.replace("\n", " ")):
        command = GROUP
        words = given.split()
        while hasattr(command, "commands") and words and words[0] in command.commands:
            command = command.commands[words.pop(0)]
        if command is GROUP:
            assert words[0].isupper(), given  # COMMAND
            continue
        known = {option for each in command.params for option in each.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, given


def test_python_blocks_run(ran: dict[str, str | None]) -> None:
    assert len(ran) > 5
    assert {page: error for page, error in ran.items() if error} == {}


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_python_blocks_that_search_run_too(tmp_path: Path) -> None:
    pages = sorted({block.page for block in RUN if block.slow})
    assert len(pages) > 4
    assert {page: error for page, error in run(pages, True, tmp_path).items() if error} == {}


def test_whatever_is_made_smaller_is_there() -> None:
    assert [long for long in SMALLER if not any(long in block.text for block in RUN)] == []


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nas-theseus serch my_space.py", "no such command: serch"),
        ("nas-theseus search my_space.py --trails 3", "--trails"),
        ("nas-theseus search my_space.py --trials many", "many"),
        ("nas-theseus search", "search"),
        ("nas-theseus library purge", "no such command: library purge"),
        ("make tea", "tea"),
        ("pip install 'nas-theseus[coffee]'", "coffee"),
        ("python -m benchmarks.nothing", "nothing"),
        ("python other.py", "other.py"),
        ("rm -rf theseus", "rm -rf theseus"),
    ],
)
def test_wrong_lines_are_found(line: str, said: str) -> None:
    (words,) = lines_of(line)
    with pytest.raises(UnknownLineError, match=re.escape(said)):
        check_line(words, TUTORIAL)


def test_a_mark_belongs_to_the_block_behind_it() -> None:
    text = "<!-- not run: no GPU -->\n```python\na\n```\n```python\nnas_theseus.search(b)\n```\n"
    first, second = blocks_of(ROOT / "README.md", text)
    assert (first.left_out, first.reason, first.line, first.slow) == (True, "no GPU", 3, False)
    assert (second.left_out, second.reason, second.line, second.slow) == (False, None, 6, True)

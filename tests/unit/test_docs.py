"""docs/methods.md names only what exists: modules, functions, files and tests."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
METHODS = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
NAMES = re.findall(r"`([^`\n]+)`", METHODS)
ROWS = [line for line in METHODS.splitlines() if line.startswith("| ") and "| whose |" not in line]


def exists(name: str) -> bool:
    """Whether a dotted name below nas_theseus leads to something; fields of classes count."""
    pieces = name.split(".")
    for cut in range(len(pieces), 0, -1):
        module = ".".join(["nas_theseus", *pieces[:cut]])
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            continue
        for piece in pieces[cut:]:
            if piece in getattr(found, "__annotations__", {}):
                return piece == pieces[-1]  # a field without a default is no attribute of its class
            if not hasattr(found, piece):
                return False
            found = getattr(found, piece)
        return True
    return False


def test_every_name_of_the_code_exists() -> None:
    dotted = [name for name in NAMES if re.fullmatch(r"[a-z_]+(\.\w+)+", name)]
    dotted = [name for name in dotted if not name.endswith((".py", ".md"))]
    assert len(dotted) > 40
    assert [name for name in dotted if not exists(name)] == []
    assert not exists("conversion.similarities.cka.quadratic_cka")
    assert not exists("convert.nothing")
    assert not exists("settings.Recipe.wish")


def test_every_file_exists() -> None:
    files = [name for name in NAMES if re.fullmatch(r"[\w/.-]+\.(py|md)", name)]
    assert len(files) > 5
    assert [name for name in files if not (ROOT / name).is_file()] == []


def test_every_test_exists() -> None:
    tests = [name.split("::") for name in NAMES if "::" in name]
    assert len(tests) > 40
    for file, function in tests:
        source = (ROOT / "tests" / "unit" / file).read_text(encoding="utf-8")
        assert re.search(rf"^def {function}\(", source, re.MULTILINE), f"{file}::{function}"


def test_every_row_says_whose_it_is_and_names_what_does_it() -> None:
    assert len(ROWS) > 40
    for row in ROWS:
        _what, whose, code, tests = (cell.strip() for cell in row.strip("|").split("|"))
        assert whose in ("stated", "reviews", "ours"), row
        assert all("::" not in name for name in re.findall("`([^`]+)`", code)), row
        assert "`" in code, row
        assert all("::" in name for name in re.findall("`([^`]+)`", tests)), row

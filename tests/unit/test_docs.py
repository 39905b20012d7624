"""The documentation names only what exists: code, files, tests, rooms, registers and links."""

from __future__ import annotations

import ast
import importlib
import re
import tomllib
from pathlib import Path

import pytest

import nas_theseus
from nas_theseus.values import registers

ROOT = Path(__file__).resolve().parents[2]
PACKAGE, DOCS = ROOT / "nas_theseus", ROOT / "docs"
METHODS = (DOCS / "methods.md").read_text(encoding="utf-8")
NAMES = re.findall(r"`([^`\n]+)`", METHODS)
ROWS = [line for line in METHODS.splitlines() if line.startswith("| ") and "| whose |" not in line]
ARCHITECTURE = (DOCS / "architecture.md").read_text(encoding="utf-8")
PAGES = [
    *sorted(DOCS.rglob("*.md")),
    *(
        ROOT / name
        for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "cluster/README.md")
    ),
]


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


def table(heading: str) -> list[list[str]]:
    """The rows of the first table under a heading of docs/architecture.md, without its head."""
    section = ARCHITECTURE.split(f"## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_name_of_the_code_exists() -> None:
    dotted = [name for name in NAMES if re.fullmatch(r"[a-z_]+(\.\w+)+", name)]
    dotted = [name for name in dotted if not name.endswith((".py", ".md"))]
    assert len(dotted) > 40
    assert [name for name in dotted if not exists(name)] == []
    assert not exists("conversion.similarities.cka.quadratic_cka")
    assert not exists("conversion.nothing")
    assert not exists("values.recipe.Recipe.wish")


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


def test_the_walk_has_at_most_fifteen_calls_and_each_is_where_it_says() -> None:
    walk = table("One search, in fifteen calls")
    assert 5 < len(walk) <= 15
    assert [row[0] for row in walk] == [str(number) for number in range(1, len(walk) + 1)]
    for _, call, file, _, _ in walk:
        assert (PACKAGE / file).is_file(), file
        assert exists(f"{file.removesuffix('.py').replace('/', '.')}.{call}"), f"{call} in {file}"


def test_each_call_of_the_walk_is_made_where_it_says() -> None:
    for _, call, _, caller, _ in table("One search, in fifteen calls"):
        text = (PACKAGE / caller).read_text(encoding="utf-8")
        # Of an object that is called, the name it is held by: `self._worker(job)`.
        owner, _, name = call.rpartition(".")
        called = owner.lower() if name == "__call__" else name
        assert re.search(rf'{called}\(|\.{called}\b|"{called}"', text), f"{call} in {caller}"


def test_the_rooms_are_those_of_the_import_contract_in_its_order() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contracts = project["tool"]["importlinter"]["contracts"]
    (rooms,) = (c["layers"] for c in contracts if c["name"].startswith("Rooms"))
    assert [room for room, _ in table("Rooms")] == rooms
    folders = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert folders == set(rooms) - {"errors"}


def test_every_register_is_in_the_table() -> None:
    members = vars(registers).items()
    known = {n: r.folder for n, r in members if isinstance(r, registers.Register)}
    filled = {name for name, folder in known.items() if (PACKAGE / folder).is_dir()}
    rows = {name: (folder, protocol) for name, folder, protocol, _ in table("Registers")}
    assert {name: known.get(name) for name in rows} == {
        n: folder for n, (folder, _) in rows.items()
    }
    assert filled <= set(rows)
    for name in filled:
        assert (PACKAGE / rows[name][1]).is_file(), name


def test_every_page_is_on_the_map() -> None:
    index = DOCS / "index.md"
    linked = re.findall(r"\]\(([^)#]+)\)", index.read_text(encoding="utf-8"))
    found = {(DOCS / link).resolve() for link in linked}
    assert {page for page in PAGES if page != index} <= found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target), link


def anchors(page: Path) -> set[str]:
    """Names of a page's headings, as links write them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_modules_and_names_that_pages_import_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    pattern = r"^from nas_theseus(?:\.([\w.]+))? import ([\w, ]+)"
    for module, names in re.findall(pattern, text, re.MULTILINE):
        for name in (name.strip() for name in names.split(",")):
            assert exists(f"{module}.{name}") if module else hasattr(nas_theseus, name), name
    for name in re.findall(r"`nas_theseus\.([a-z_]+(?:\.\w+)+)`", text):
        # The changelog names what moved by its old place.
        assert page.name == "CHANGELOG.md" or exists(name), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_on_the_pages_can_be_parsed(page: Path) -> None:
    for text in re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        ast.parse(text)


@pytest.mark.parametrize("page", ["design.md", "architecture.md", "guides/bring-your-own.md"])
def test_files_of_the_package_that_pages_name_exist(page: str) -> None:
    # The table of registers has a test of its own.
    text = (DOCS / page).read_text(encoding="utf-8").split("## Registers")[0]
    rooms = [path.parent.name for path in PACKAGE.glob("*/__init__.py")]
    found = re.findall(rf"`((?:{'|'.join(rooms)})/[\w/]*(?:\.py)?)`", text)
    assert len(found) > 5
    assert [name for name in found if not (PACKAGE / name).exists()] == []

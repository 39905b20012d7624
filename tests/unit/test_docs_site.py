"""The documentation site builds without a warning, is whole, and asks no server for anything."""

from __future__ import annotations

import html
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import typer.main

import nas_theseus
from nas_theseus import blocks, tasks, transforms
from nas_theseus.cli.app import make_app
from nas_theseus.values.recipe import Recipe
from tests.unit.test_docs import exists

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site as `make docs` builds it, in a temporary folder."""
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)]
    own = os.environ | {"NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=own, capture_output=True, text=True, check=False, timeout=280
    )
    assert done.returncode == 0, done.stderr
    return out


def module(name: str) -> ModuleType:
    """A module of docs/site."""
    spec = importlib.util.spec_from_file_location(name, DOCS / "site" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def text_of(page: Path) -> str:
    """What a reader sees of a page's article."""
    (article,) = re.findall(r"<article.*?</article>", page.read_text(encoding="utf-8"), re.DOTALL)
    return html.unescape(re.sub(r"<[^>]+>", "", article))


def test_every_page_is_there(site: Path) -> None:
    pages = [*DOCS.rglob("*.md"), *DOCS.rglob("*.ipynb")]
    built = [site / page.relative_to(DOCS).with_suffix(".html") for page in pages]
    assert [page for page in built if not page.is_file()] == []
    assert not (site / "site").exists()  # the scripts that make the site


def test_nothing_is_asked_from_a_server(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text(encoding="utf-8")
        loaded = re.findall(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=[\"']([^\"']+)", text)
        loaded += re.findall(r"<link\b[^>]*\bhref=[\"']([^\"']+)", text)
        assert [link for link in loaded if re.match(r"(?:\w+:)?//", link)] == [], page
        assert "mermaid" not in text, page  # the theme would fetch its program from a server
    for sheet in site.rglob("*.css"):
        rules = sheet.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\([\"']?|@import [\"'])(?:https?:)?//[^)]+", rules) == [], sheet


def test_the_reference_has_everything_public(site: Path) -> None:
    expected = {
        "python": [f"nas_theseus.{name}" for name in nas_theseus.__all__ if name != "Recipe"],
        "blocks": [f"nas_theseus.blocks.{name}" for name in blocks.__all__],
        "tasks": [f"nas_theseus.tasks.{name}" for name in tasks.__all__],
        "transforms": [f"nas_theseus.transforms.{name}" for name in transforms.__all__],
    }
    for page, names in expected.items():
        text = (site / "reference" / f"{page}.html").read_text(encoding="utf-8")
        assert [name for name in names if f'id="{name}"' not in text] == []
    recipe = text_of(site / "reference" / "recipe.html")
    assert [name for name in Recipe.model_fields if name not in recipe] == []
    costs = text_of(site / "reference" / "costs.html")
    assert "KVCacheBytes" in costs and "LatencyMs" in costs


def test_the_page_of_commands_has_every_command_and_option(site: Path) -> None:
    text = text_of(site / "reference" / "commands.html")
    group: Any = typer.main.get_command(make_app())
    for name, command in group.commands.items():
        for inner, each in getattr(command, "commands", {"": command}).items():
            title = f"nas-theseus {name} {inner}".strip()
            (section,) = re.findall(rf"\n{title}¶\n(.*?)(?=\nnas-theseus [\w ]+¶\n|\Z)", text, re.S)
            options = [option for p in each.params for option in p.opts if option[0] == "-"]
            assert [option for option in options if option not in section] == [], title
    assert "N|auto" in text


def test_notebooks_can_be_read_and_downloaded(site: Path) -> None:
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        assert (site / "files" / notebook.name).read_bytes() == notebook.read_bytes()
        cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
        text = "".join(text_of(site / "notebooks" / f"{notebook.stem}.html").split())
        for cell in cells:
            if cell["cell_type"] == "code":
                assert "".join("".join(cell["source"]).split()) in text


def test_marks_of_blocks_are_not_shown(site: Path) -> None:
    for page in (site / "guides").glob("*.html"):
        assert "not run:" not in text_of(page), page
        assert "```" not in text_of(page), page


def test_links_that_lead_out_of_the_docs_lead_to_their_pages() -> None:
    relinked = module("hooks").relinked
    given = "[a](../README.md) [b](guides/vision.md#weights) [c](notebooks/text.ipynb) [d](#x)"
    assert relinked(given, "docs/index.md", "index.md") == (
        "[a](overview.md) [b](guides/vision.md#weights) [c](notebooks/text.md) [d](#x)"
    )
    assert relinked("[a](../docs/guides/gpu.md)", "cluster/README.md", "guides/cluster.md") == (
        "[a](gpu.md)"
    )
    # No page of the site shows a test, so what linked to it is text.
    assert relinked("[`t`](../../tests/conftest.py), x", "docs/guides/a.md", "guides/a.md") == (
        "`t`, x"
    )
    assert relinked("[t](../none.py)", "docs/a.md", "a.md") == "[t](../none.py)"
    code = "```text\n[a](../README.md)\n```\n[e](https://optuna.org)\n"
    assert relinked(code, "docs/index.md", "index.md") == code


def test_a_cell_of_another_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="cells of raw"):
        module("notebook_pages").shown_cell("raw", "text")


def test_names_of_the_code_in_the_page_about_the_paper_exist() -> None:
    text = (DOCS / "paper.md").read_text(encoding="utf-8")
    named = re.findall(r"`([a-z_]+(?:\.\w+)+)`", text)
    code = [name for name in named if not name.endswith((".py", ".png", ".md"))]
    assert len(code) > 30
    assert [name for name in code if not exists(name)] == []
    files = re.findall(r"`(search_spaces/\w+\.py)`", text)
    assert len(files) >= 4 and all((ROOT / name).is_file() for name in files)


def test_pictures_are_drawings_with_words_for_those_who_cannot_see_them() -> None:
    drawings = sorted((DOCS / "pictures").glob("*.svg"))
    assert len(drawings) == 3
    for path in drawings:
        text = path.read_text(encoding="utf-8")
        assert "<title" in text and "<desc" in text and 'role="img"' in text
        assert not re.search(r"(?:href|src|url)[=(]\W?https?:", text), path

"""Which modules a text imports, and which of them another machine can install."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from nas_theseus.space import imports
from nas_theseus.space.imports import imports_of, is_installed, private_origin

TEXT = """
import a, b.c
from d import e
def later():
    from f.g import h as i
    if i: import j
class K:
    from . import l
    from .m import n
    from ..out import of_the_folder
import importlib
importlib.import_module("o")
importlib.import_module(name_made_at_run_time)
__import__("p")
"""


def names(text: str, package: str = "") -> list[str]:
    return sorted(one.name for one in imports_of(ast.parse(text), package))


def test_every_statement_is_found_wherever_it_stands() -> None:
    expected = ["a", "b.c", "d", "d.e", "f.g", "f.g.h", "importlib", "j", "l", "m", "m.n", "o", "p"]
    assert names(TEXT) == expected


def test_relative_imports_start_from_the_package() -> None:
    assert names("from . import a", "pkg") == ["pkg", "pkg.a"]
    assert names("from .a import b", "pkg.inner") == ["pkg.inner.a", "pkg.inner.a.b"]
    assert names("from ..a import b", "pkg.inner") == ["pkg.a", "pkg.a.b"]
    assert names("from ...a import b", "pkg.inner") == ["a", "a.b"]
    assert names("from ....a import b", "pkg.inner") == []


def test_a_call_is_told_from_a_statement() -> None:
    found = {one.name: one.call for one in imports_of(ast.parse(TEXT), "")}
    assert found["o"] and not found["p"] and not found["a"]


@pytest.mark.parametrize(
    "name", ["os", "math", "torch", "nas_theseus", "pytest", "not_there_at_all"]
)
def test_what_another_machine_can_install_has_no_private_origin(name: str) -> None:
    assert private_origin(name) is None


def test_a_module_on_the_path_alone_is_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lonely_module.py").touch()
    (tmp_path / "lonely_folder").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert private_origin("lonely_module.part") == str(tmp_path / "lonely_module.py")
    assert private_origin("lonely_folder") == str(tmp_path / "lonely_folder")
    assert private_origin("__main__") == "the program that is running"


def test_an_editable_install_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As pip writes it: a distribution whose direct_url.json names a folder elsewhere."""
    site, project = tmp_path / "site", tmp_path / "my project"
    (site / "mine-1.dist-info").mkdir(parents=True)
    project.mkdir()
    (project / "lonely_module.py").touch()
    (site / "mine-1.dist-info" / "METADATA").write_text("Name: mine\nVersion: 1\n")
    (site / "mine-1.dist-info" / "direct_url.json").write_text(
        f'{{"dir_info": {{"editable": true}}, "url": "{project.as_uri()}"}}'
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(site), str(project)])
    imports._editable_folders.cache_clear()
    try:
        assert private_origin("lonely_module") is None
    finally:
        imports._editable_folders.cache_clear()


def test_the_standard_library_and_site_packages_are_installed() -> None:
    assert is_installed("ast", Path(ast.__file__))
    assert is_installed("x", Path("/opt/apps/lib/python3/dist-packages/x/__init__.py"))
    assert not is_installed("x", Path("/opt/apps/x.py"))

"""Which modules of a folder belong to a space, and which imports cannot be saved."""

from __future__ import annotations

from pathlib import Path

import pytest

from nas_theseus.errors import SpaceError
from nas_theseus.space.own_folder import read_folder


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / "mine.py"


def test_modules_packages_and_what_they_import_are_read(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "mine.py": "import torch\nfrom blocks import A\ndef space():\n    import late",
            "blocks.py": "from pkg.deep.inner import x",
            "late.py": "import plain.part",
            "pkg/__init__.py": "from . import sibling",
            "pkg/sibling.py": "from .deep import *",
            "pkg/deep/__init__.py": "",
            "pkg/deep/inner.py": "import blocks",
            "plain/part.py": "",
            "unused.py": "import late",
            "pkg/unused.py": "",
            "data.json": "{}",
        },
    )
    found = read_folder(path)
    assert dict(found.modules).keys() == {
        "blocks.py", "late.py", "pkg/__init__.py", "pkg/sibling.py", "pkg/deep/__init__.py",
        "pkg/deep/inner.py", "plain/part.py",
    }  # fmt: skip
    assert dict(found.modules)["blocks.py"] == "from pkg.deep.inner import x"
    assert found.mistakes == ()


def test_a_folder_of_data_with_the_name_of_a_package_is_no_source(tmp_path: Path) -> None:
    path = write(tmp_path, {"mine.py": "import scipy.stats", "scipy/stats.py": "", "scipy/x": ""})
    assert read_folder(path).modules == ()


def test_built_in_modules_and_the_package_itself_are_never_taken_from_the_folder(
    tmp_path: Path,
) -> None:
    files = {"mine.py": "import sys, nas_theseus", "sys.py": "", "nas_theseus/__init__.py": ""}
    assert read_folder(write(tmp_path, files)).modules == ()


def test_compiled_code_in_the_folder_is_refused_by_name(tmp_path: Path) -> None:
    path = write(tmp_path, {"mine.py": "\nimport fast", "fast.abi3.so": "", "pkg/__init__.py": ""})
    (mistake,) = read_folder(path).mistakes
    assert "line 2 of mine.py imports 'fast', which is compiled (fast.abi3.so)" in mistake
    assert "Install it as a package" in mistake
    write(tmp_path, {"mine.py": "from pkg import part", "pkg/part.pyc": ""})
    (mistake,) = read_folder(path).mistakes
    assert "'pkg.part'" in mistake and "part.pyc" in mistake


def test_compiled_code_of_an_installed_project_in_the_folder_is_no_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"mine.py": "import pkg._fast", "pkg/__init__.py": "", "pkg/_fast.abi3.so": ""}
    path = write(tmp_path / "site-packages", files)
    assert read_folder(path).modules == () and read_folder(path).mistakes == ()


def test_a_module_elsewhere_that_is_not_installed_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "private_ops.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "lib")
    files = {"mine.py": "import blocks", "blocks.py": "def f():\n    import private_ops.conv"}
    (mistake,) = read_folder(write(tmp_path / "space", files)).mistakes
    assert "line 2 of blocks.py imports 'private_ops' from" in mistake
    assert "Move the module into that folder, or install it" in mistake


def test_an_import_by_a_call_is_refused_with_the_statement_to_write(tmp_path: Path) -> None:
    text = "from importlib import import_module\nimport_module('blocks')"
    (mistake,) = read_folder(write(tmp_path, {"mine.py": text, "blocks.py": ""})).mistakes
    assert "line 2 of mine.py imports 'blocks' by a call" in mistake
    assert "'import blocks'" in mistake


def test_texts_are_decoded_as_python_decodes_them(tmp_path: Path) -> None:
    path = write(tmp_path, {"mine.py": ""})
    path.write_bytes("\ufeffimport blocks\r\n".encode())
    (tmp_path / "blocks.py").write_bytes("# coding: latin-1\nNAME = 'é'".encode("latin-1"))
    found = read_folder(path)
    assert found.text == "import blocks\n"
    assert "é" in dict(found.modules)["blocks.py"]


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "No such file.*give a Python file"),
        ({"mine.py": "def ("}, "mine.py.*\n  - line 1: SyntaxError"),
        ({"mine.py": "import b", "b.py": "\nx ="}, "- b.py, line 2: SyntaxError"),
        ({"mine.py": "# coding: ascii\n# é"}, "can't decode byte.*give a Python file"),
    ],
)
def test_what_cannot_be_read_is_named(files: dict[str, str], said: str, tmp_path: Path) -> None:
    write(tmp_path, files)
    with pytest.raises(SpaceError, match=said):
        read_folder(tmp_path / "mine.py")


def test_a_module_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    path = write(tmp_path, {"mine.py": "import b"})
    (tmp_path / "b.py").write_bytes(b"x = '\xff'")
    with pytest.raises(SpaceError, match="its module b.py cannot be read"):
        read_folder(path)

"""What Ray packs of the folder of a search space: what can be imported, and nothing else."""

from __future__ import annotations

from pathlib import Path
from zipfile import ZipFile

from ray._private.runtime_env.packaging import create_package

from nas_theseus.services.ray.cluster import _runtime_env


def test_modules_and_packages_travel_and_nothing_else(tmp_path: Path) -> None:
    sources = tmp_path / "a folder"
    for folder in ("package", "theseus", "not-a-name", "package/__pycache__"):
        (sources / folder).mkdir(parents=True)
    for name in (
        "mine.py", "package/__init__.py", "package/table.json", "package/__pycache__/a.pyc",
        "theseus/result.json", "images.bin", ".env", "not-a-name/__init__.py",
    ):  # fmt: skip
        (sources / name).write_text("WIDTH = 8")
    environment = _runtime_env(sources)
    packed = tmp_path / "packed.zip"
    create_package(
        environment["working_dir"], packed, include_gitignore=True, excludes=environment["excludes"]
    )
    files = {name for name in ZipFile(packed).namelist() if not name.endswith("/")}
    assert files == {"mine.py", "package/__init__.py", "package/table.json"}


def test_a_folder_that_is_not_given_does_not_travel() -> None:
    assert "working_dir" not in _runtime_env(None)

"""The wheel alone is enough: built, installed apart from the checkout, and searched with."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from nas_theseus.tasks import digits
from tests.integration.serving import ask, served

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.timeout(900)


def run(*command: str | Path, folder: Path, **variables: str) -> str:
    """Run a command without the checkout on its module path, and return what it prints."""
    own = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("MLFLOW_", "PYTHON", "NAS_THESEUS_"))
    }
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env={**own, "OMP_NUM_THREADS": "1", "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the source archive."""
    for tool in ("build", "twine", "hatchling"):
        pytest.importorskip(tool)
    folder = tmp_path_factory.mktemp("dist")
    # The wheel is built from the source archive, so that this one is whole, too.
    tools = os.environ.get("PYTHONPATH", "")
    run(
        sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT,
        folder=ROOT, PYTHONPATH=tools,
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The scripts of an environment with the wheel, which finds other packages where they are."""
    folder = tmp_path_factory.mktemp("environment")
    run(sys.executable, "-m", "venv", "--without-pip", folder, folder=folder)
    (wheel,) = built.glob("*.whl")
    (scripts,) = (path for path in (folder / "bin", folder / "Scripts") if path.is_dir())
    python = scripts / "python"
    run(
        sys.executable, "-m", "pip", "--python", python, "--quiet", "install",
        "--no-deps", "--no-index", wheel, folder=folder,
    )  # fmt: skip
    (site,) = folder.rglob("site-packages")
    # Lines of a .pth file only lengthen the module path: an editable install that is found there
    # is not followed, so that nas_theseus can only come from the wheel.
    (site / "others.pth").write_text(sysconfig.get_paths()["purelib"] + "\n", encoding="utf-8")
    return scripts


def test_both_archives_can_be_published(built: Path) -> None:
    names = sorted(path.name for path in built.iterdir())
    assert [name.endswith((".whl", ".tar.gz")) for name in names] == [True, True]
    tools = os.environ.get("PYTHONPATH", "")
    said = run(
        sys.executable, "-m", "twine", "check", "--strict", *sorted(built.iterdir()),
        folder=built, PYTHONPATH=tools,
    )  # fmt: skip
    assert said.count("PASSED") == 2


def test_the_wheel_holds_every_file_of_the_package_and_nothing_else(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    package = ROOT / "nas_theseus"
    there = {
        path.relative_to(ROOT).as_posix()
        for path in package.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert held == there
    assert {"nas_theseus/py.typed", "nas_theseus/api/templates/digits.py"} <= held


@pytest.mark.slow
def test_five_commands_lead_to_a_served_network(installed: Path, tmp_path: Path) -> None:
    """`new`, `search`, `register` and the server with the wheel alone, then a request."""
    # The server is started by its name, which is among the scripts of an environment with pip.
    server = installed / "uvicorn"
    server.write_text(f'#!/bin/sh\nexec "{installed}/python" -m uvicorn "$@"\n', encoding="utf-8")
    server.chmod(0o755)
    theseus = installed / "nas-theseus"
    run(theseus, "new", "first.py", folder=tmp_path)
    run(
        theseus, "search", "first.py", "--trials", "4", "--executor", "inline",
        "--parallel", "1", folder=tmp_path,
    )  # fmt: skip
    chosen = ("--where", "macs < 3.5e5", "--alias", "champion")
    assert "serve it: mlflow" in run(theseus, "register", "first", *chosen, folder=tmp_path)
    batch = next(digits().batches("test", 60, limit=60))
    log = tmp_path / "serve.log"
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path / 'mlflow.db'}", "PYTHONPATH": ""}
    with served("models:/first@champion", log, installed, **store) as address:
        outputs = ask(address, {"inputs": batch.inputs.tolist()})["predictions"]
    right = [row.index(max(row)) for row in outputs] == batch.targets.numpy()
    front = tmp_path / "theseus" / "searches" / "first" / "front" / "front.json"
    rows = json.loads(front.read_text(encoding="utf-8"))["front"]
    best = max((row for row in rows if row["macs"] < 3.5e5), key=lambda row: row["val_accuracy"])
    assert abs(right.mean() - best["test_accuracy"]) < 0.2  # 60 of 360 pictures


def test_new_check_and_search_run_with_the_wheel_alone(installed: Path, tmp_path: Path) -> None:
    where = run(
        installed / "python", "-c", "import nas_theseus; print(nas_theseus.__file__)",
        folder=tmp_path,
    )  # fmt: skip
    assert Path(where.strip()).is_relative_to(installed.parent)
    theseus = installed / "nas-theseus"
    written = run(theseus, "new", "first.py", folder=tmp_path)
    assert "wrote first.py" in written and "no mistakes" in written
    assert "no mistakes" in run(theseus, "check", "first.py", folder=tmp_path)
    run(
        theseus, "search", "first.py", "--trials", "2", "--executor", "inline",
        "--parallel", "1", "--tracker", "json-lines", folder=tmp_path,
    )  # fmt: skip
    front = tmp_path / "theseus" / "searches" / "first" / "front" / "front.json"
    rows = json.loads(front.read_text(encoding="utf-8"))["front"]
    assert rows and all(row["macs"] <= 600e3 for row in rows)
    found = json.loads(run(theseus, "doctor", "--json", folder=tmp_path))
    assert {one["subject"]: one["state"] for one in found}["packages"] == "ok"

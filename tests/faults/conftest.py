"""Servers and counts; `WRITE_FAULTS=1 pytest -m slow tests/faults` writes results/faults.json."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.commands import Inline, Search
from tests.faults.counts import FAULTS, Fault, figures, latest, write_table
from tests.faults.services import MlflowServer, Postgres, S3Store


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Fault:
    """The counts of this test; they must be right even where the test fails."""
    return Fault(request.node.name)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    cell = item.funcargs.get("fault")
    if isinstance(cell, Fault) and report.when == "call" and not report.skipped:
        cell.passed = report.passed
        FAULTS.append(cell)
    return report


def pytest_sessionfinish() -> None:
    if not os.environ.get("WRITE_FAULTS") or not FAULTS:
        return
    from benchmarks.record import RESULTS, commit, write_record

    for cell in FAULTS:
        cell.commit = commit()
    record = RESULTS / "faults.json"
    earlier = json.loads(record.read_text())["cells"] if record.exists() else []
    cells = latest([*(Fault(**cell) for cell in earlier), *FAULTS])
    write_table(Path(__file__).parents[2] / "docs" / "evidence" / "reliability.md", cells)
    notes = {"cells": "one a test, of its latest run; each has the commit that it ran at"}
    write_record(
        "faults", figures(cells), [asdict(cell) for cell in cells], [0], notes,
        program="WRITE_FAULTS=1 pytest",
    )  # fmt: skip


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Search:
    """A search that nothing happened to, one trial at a time; Ray does not change a result."""
    search = Inline(tmp_path_factory.mktemp("undisturbed") / "whole", 6)
    search.finish()
    return search


@pytest.fixture(params=[Inline, Search], ids=["inline", "Ray"])
def kind(request: pytest.FixtureRequest) -> type[Search]:
    """How a search is run."""
    found: type[Search] = request.param
    return found


@pytest.fixture
def postgres() -> Iterator[Postgres]:
    # Below /tmp itself, which another user can reach: pytest's own folders are private.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o755)
        server = Postgres(Path(name))
        server.start()
        try:
            yield server
        finally:
            server.stop(kill=True)


@pytest.fixture
def mlflow_server(tmp_path: Path, postgres: Postgres) -> Iterator[MlflowServer]:
    """MLflow's server over HTTP with PostgreSQL as its backend."""
    server = MlflowServer(tmp_path / "server", postgres.uri())
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Store]:
    server = S3Store()
    server.start()
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    try:
        yield server
    finally:
        server.stop()

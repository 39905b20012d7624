"""Servers and counts; `WRITE_FAULTS=1 pytest -m slow tests/faults` writes results/faults.json."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.faults.counts import FAULTS, Fault, write_table
from tests.faults.services import MlflowServer, Postgres, S3Store


@pytest.fixture
def fault(request: pytest.FixtureRequest) -> Iterator[Fault]:
    """The counts of this test; they must be right even where the test fails."""
    cell = Fault(request.node.name)
    FAULTS.cells.append(cell)
    failed = request.session.testsfailed
    yield cell
    cell.passed = request.session.testsfailed == failed


def pytest_sessionfinish() -> None:
    if not os.environ.get("WRITE_FAULTS") or not FAULTS.cells:
        return
    from benchmarks.record import write_record

    write_table(Path(__file__).parents[2] / "docs" / "reliability.md", FAULTS.cells)
    notes = {"cells": "one a test, in order; only those of this run"}
    cells = [asdict(cell) for cell in FAULTS.cells]
    program = "WRITE_FAULTS=1 pytest"
    write_record("faults", FAULTS.figures(), cells, [0], notes, program=program)


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

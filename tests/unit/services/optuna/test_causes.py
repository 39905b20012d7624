"""Each way in which a study's storage fails, really produced, names its own remedy."""

from __future__ import annotations

import os
import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from torch import nn

from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Identity, Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ServiceError
from nas_theseus.services.optuna.causes import CAUSES, unusable
from nas_theseus.services.optuna.storage import reach
from nas_theseus.services.optuna.study import Problem, Study, StudySettings, open_study
from nas_theseus.space.genome import Genome
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation, Outcome

ROOT = Path(__file__).parents[4]
HEAD = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
CONVS = [nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1)]
SPACE = SearchSpace(
    guide=cut(nn.Sequential(*CONVS, HEAD), ["0", "1", "2"], (1, 8, 8)),
    task=digits(),
    blocks=[Keep(), Linear(), Identity()],
    max_span=2,
    keep=["head"],
)
COSTS = CostTable(SPACE)


class Bench:
    """A study over any storage, with the results it was given."""

    def __init__(self, storage: Path | str) -> None:
        self.storage = storage
        self.results: dict[str, Outcome] = {}

    def study(self) -> Study:
        return open_study(
            StudySettings("one", self.storage, "nsga2", 0),
            Problem(Genome(SPACE), SPACE.goals, (), COSTS.of),
            lambda architecture: self.results.get(architecture.id),
        )

    def run(self, study: Study, count: int) -> list[Architecture]:
        found = []
        for _ in range(count):
            proposal = study.propose()
            assert proposal is not None
            architecture = proposal.architecture
            quality = int(architecture.id, 16) % 1000 / 1000
            result = Evaluation(
                architecture, "r", 0, {"val_accuracy": quality}, COSTS.of(architecture), 0, 0.0
            )
            self.results[architecture.id] = result
            study.report(proposal, result)
            found.append(architecture)
        return found


@pytest.fixture
def database(tmp_path: Path) -> tuple[Path, str]:
    """A file of SQLite's, with Optuna's tables, and its address, which waits for a lock briefly."""
    file = tmp_path / "study.db"
    address = f"sqlite:///{file}?timeout=0.1"
    reach(address)
    return file, address


@pytest.fixture
def holder(database: tuple[Path, str]) -> Iterator[sqlite3.Connection]:
    """Another connection to it."""
    connection = sqlite3.connect(database[0], isolation_level=None)
    yield connection
    connection.close()


def refused(address: str) -> str:
    with pytest.raises(ServiceError) as told:
        reach(address)
    return str(told.value)


@pytest.mark.parametrize("mode", ["IMMEDIATE", "EXCLUSIVE"])
def test_a_database_that_another_process_has_locked(
    database: tuple[Path, str], holder: sqlite3.Connection, mode: str
) -> None:
    bench = Bench(database[1])
    study = bench.study()
    bench.run(study, 2)
    holder.execute(f"BEGIN {mode}")
    with pytest.raises(ServiceError, match="is locked.*Another process has locked .*: wait"):
        bench.run(study, 1)
    with pytest.raises(ServiceError, match="Another process has locked"):
        bench.study().propose()
    holder.execute("ROLLBACK")
    assert len(bench.run(bench.study(), 2)) == 2


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "study.db").write_bytes(b"no database" * 500)
    said = refused(f"sqlite:///{tmp_path / 'study.db'}")
    assert "file is not a database" in said and "restore it from a backup" in said


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    said = refused(f"sqlite:///{tmp_path / 'no' / 'study.db'}")
    assert "unable to open database file" in said and "create the folder" in said
    (tmp_path / "no").mkdir()
    reach(f"sqlite:///{tmp_path / 'no' / 'study.db'}")


def test_a_database_that_may_not_be_written(database: tuple[Path, str]) -> None:
    address = f"sqlite:///file:{database[0]}?mode=ro&uri=true"
    with pytest.raises(ServiceError, match="readonly database.*give yourself write permission"):
        Bench(address).study()


def test_tables_that_belong_to_mlflow(tmp_path: Path) -> None:
    MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()
    said = refused(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert "MLflow or another tool uses" in said and "its own database (--study)" in said
    reach(f"sqlite:///{tmp_path / 'study.db'}")


def test_tables_of_an_older_optuna(database: tuple[Path, str], holder: sqlite3.Connection) -> None:
    holder.execute("UPDATE alembic_version SET version_num = 'v2.6.0.a'")
    said = refused(database[1])
    assert "optuna storage upgrade --storage URL" in said and "MLflow" not in said
    optuna = [sys.executable, "-c", "import sys; from optuna.cli import main; sys.exit(main())"]
    subprocess.run([*optuna, "storage", "upgrade", "--storage", database[1]], check=True)
    reach(database[1])


def test_a_server_that_does_not_run() -> None:
    said = refused("postgresql+psycopg://me:secret@127.0.0.1:1/optuna")
    assert "refused" in said and "check that it runs" in said and "secret" not in said


def test_a_host_that_does_not_exist() -> None:
    said = refused("postgresql+psycopg://me:secret@no-such-host.invalid/optuna")
    assert "check that it runs and that host and port are correct" in said and "secret" not in said


def test_a_driver_that_is_not_installed() -> None:
    said = refused("mssql+pymssql://me:secret@127.0.0.1:1/optuna")
    assert "No module named 'pymssql'" in said and "is not installed: install it" in said
    assert "secret" not in said


@pytest.mark.parametrize("address", ["abc", "postgres://me:secret@db/optuna", "redis://db"])
def test_what_is_no_address_of_a_database(address: str) -> None:
    said = refused(address)
    assert "write sqlite:///FILE or postgresql+psycopg://" in said and "secret" not in said


LIMITED = """
import resource, signal, sys
from pathlib import Path
from tests.unit.services.optuna.test_causes import Bench
from nas_theseus.errors import ServiceError
storage, limit = sys.argv[1], int(sys.argv[2])
bench = Bench(storage if "://" in storage else Path(storage))
study = bench.study()
bench.run(study, 2)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
try:
    bench.run(study, 200)
except ServiceError as error:
    print(error)
"""


def run_limited(storage: Path | str, limit: int) -> str:
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(storage), str(limit)],
        env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return done.stdout


def test_a_journal_that_may_not_grow_continues_with_more_room(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    said = run_limited(journal, 16_000)
    assert "File too large" in said and "Its disk or quota is full: free some space" in said
    bench = Bench(journal)
    assert len(bench.run(bench.study(), 3)) == 3


def test_a_database_that_may_not_grow(database: tuple[Path, str]) -> None:
    said = run_limited(database[1], database[0].stat().st_size)
    assert "disk I/O error" in said and "`ulimit -f`" in said


def test_a_full_database(database: tuple[Path, str], holder: sqlite3.Connection) -> None:
    """SQLite's own limit, as a disk of this size cannot be mounted everywhere."""
    holder.execute("PRAGMA max_page_count = 1")
    with pytest.raises(sqlite3.OperationalError) as full:
        holder.executescript("CREATE TABLE big (x); INSERT INTO big VALUES (zeroblob(100000));")
    said = str(unusable(database[1], full.value))
    assert "database or disk is full" in said and "free some space" in said


def test_a_journal_that_may_not_be_read_as_a_file(tmp_path: Path) -> None:
    (tmp_path / "study.journal").mkdir()
    with pytest.raises(ServiceError, match="Is a directory.*Check that the storage exists"):
        Bench(tmp_path / "study.journal").study()


def unchecked(line: bytes) -> bytes:
    """A line without its checksum, as earlier versions wrote it."""
    return re.sub(rb',"crc32":"\w+"', b"", line)


DAMAGE = {
    "another value": (lambda line: line.replace(b'"trial_id":', b'"trial_id":1'), "its checksum"),
    "cut": (lambda line: line[: len(line) // 2] + b"\n", "it is not JSON"),
    "zeros": (lambda line: bytes(len(line) - 1) + b"\n", "it is not JSON"),
    "not text": (lambda line: b"\xff\xfe" + unchecked(line), "it is not JSON"),
    "of another": (lambda line: b'{"epoch": 3}\n', "no entry of Optuna's journal"),
    "a key lost": (lambda line: unchecked(line).replace(b'"trial_id"', b'"trial"'), "cannot read"),
    "a kind lost": (
        lambda line: re.sub(rb'"op_code":\d+', b'"op_code":99', unchecked(line)),
        "cannot read this entry",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_journal_damaged_in_the_middle(tmp_path: Path, damage: str) -> None:
    """The message names the line, and its remedy works: the study continues."""
    journal = tmp_path / "a study.journal"
    bench = Bench(journal)
    before = bench.run(bench.study(), 8)
    lines = journal.read_bytes().splitlines(keepends=True)
    middle = next(i for i in range(len(lines) // 2, len(lines)) if b'"trial_id"' in lines[i])
    change, why = DAMAGE[damage]
    lines[middle] = change(lines[middle])
    journal.write_bytes(b"".join(lines))
    with pytest.raises(ServiceError) as told:
        bench.study()
    said = str(told.value)
    assert f"is damaged in line {middle + 1}: " in said and why in said
    assert "Restore the file from a backup" in said and "disk" not in said
    command = re.search(r"lines before it: (cp .* && head .*?)\. Saved", said)
    assert command is not None
    subprocess.run(command[1], shell=True, check=True)
    assert journal.read_bytes().splitlines(keepends=True) == lines[:middle]
    after = bench.run(bench.study(), 4)
    assert not {*after} & {*before}


def test_a_journal_damaged_in_its_first_line(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    bench = Bench(journal)
    before = bench.run(bench.study(), 3)
    journal.write_bytes(b"x" + journal.read_bytes())
    with pytest.raises(ServiceError, match="is damaged in line 1: .*move it away") as told:
        bench.study()
    assert shlex.quote(str(journal)) in str(told.value)
    journal.rename(tmp_path / "study.journal.damaged")
    assert not {*bench.run(bench.study(), 3)} & {*before}


def test_a_line_damaged_while_a_search_runs(tmp_path: Path) -> None:
    journal = tmp_path / "study.journal"
    bench = Bench(journal)
    study = bench.study()
    bench.run(study, 2)
    with journal.open("ab") as file:
        file.write(b"another program's line\n")
    with pytest.raises(ServiceError, match="is damaged in line"):
        bench.run(study, 1)


def test_every_cause_has_a_remedy_of_its_own() -> None:
    remedies = [cause.remedy for cause in CAUSES]
    assert len({*remedies}) == len(remedies)
    assert all(cause.signs and sign == sign.lower() for cause in CAUSES for sign in cause.signs)

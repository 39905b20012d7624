"""Repeats of a front: what is run, what is read back, and what is said of neighbours."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas_theseus.api.repeating import repeat_front
from nas_theseus.cli.app import make_app
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.pictures.page import Link, Plot, Table
from nas_theseus.searches.front_drawing import figure_of_front
from nas_theseus.searches.front_files import read_front
from nas_theseus.searches.repeat_job import Repeat
from nas_theseus.searches.repeats import RepeatJobs, read_repeats, repeats_of, spreads_of
from nas_theseus.searches.sections import choosing, front
from nas_theseus.searches.status import Status
from nas_theseus.values.outcomes import Failure
from tests.unit.searches.recorded import Recorded

SEEDS = range(1, 5)


class Said:
    """What a reporter is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, message: str) -> None:
        self.lines.append(message)

    def show(self, status: Status) -> None:
        raise AssertionError("repeats have no status")


@pytest.fixture
def recorded(tmp_path: Path) -> Recorded:
    """A search with four seeds of each member: far apart, but for the last two."""
    made = Recorded(tmp_path)
    made.finish()
    members = read_front(made.folder)
    assert len(members) > 2
    for place, member in enumerate(members):
        level = min(place, len(members) - 2) / 10
        for seed in SEEDS:
            value = 0.5 + level + 0.001 * seed * (1 + place)
            one = replace(member.evaluation, seed=seed, metrics={"val_accuracy": value})
            made.folder.write_outcome(one)
    return made


def test_a_job_is_read_as_it_was_written(recorded: Recorded) -> None:
    members = read_front(recorded.folder)
    jobs = repeats_of(members, [1, 2])
    assert [job.seed for job in jobs] == [1] * len(members) + [2] * len(members)
    assert len({job.id for job in jobs}) == len(jobs)
    job = jobs[0]
    assert Repeat.from_json(json.loads(json.dumps(job.to_json()))) == job
    assert job.title == f"seed 1, {job.architecture.title}"
    saved = recorded.folder.read_outcome(job.outcome_name("recipe"))
    assert saved is not None and saved.seed == 1


def test_repeats_leave_the_front_as_it_was(recorded: Recorded, tmp_path: Path) -> None:
    other = Recorded(tmp_path / "untouched")
    other.finish()
    ids = [[m.evaluation.name for m in read_front(one.folder)] for one in (recorded, other)]
    assert ids[0] == ids[1]
    assert len(recorded.records.outcomes) == len(other.records.outcomes)


def test_neighbours_are_told_apart_or_not(recorded: Recorded) -> None:
    members = read_front(recorded.folder)
    found = read_repeats(recorded.folder, members, SEEDS)
    assert found.metric == "val_accuracy" and not found.is_constant
    *far, near = found.differences
    assert far and all(one.is_real and one.difference > 0.05 for one in far)
    assert not near.is_real and abs(near.difference) < 0.01
    data = found.to_json()
    assert data["seeds"] == [1, 2, 3, 4]
    assert [one["real"] for one in data["neighbours"]] == [True] * len(far) + [False]
    first = data["front"][0]
    assert first["repeats"]["mean"] == pytest.approx(0.5025)
    assert first["val_accuracy"] == members[0].evaluation.value("val_accuracy")


def test_failed_and_missing_repeats_are_counted_and_compared_with_nothing(
    recorded: Recorded,
) -> None:
    members = read_front(recorded.folder)
    architecture = members[0].evaluation.architecture
    recorded.folder.write_outcome(Failure(architecture, "recipe", 9, "finetune", "out of memory"))
    found = read_repeats(recorded.folder, members, [9, 10])
    assert (found.members[0].failed, found.members[1].failed) == (1, 0)
    assert all(one.spread is None for one in found.members)
    assert found.differences == () and not found.is_constant
    assert found.to_json()["front"][0]["repeats"] == {
        "values": [], "mean": None, "deviation": None, "failed": 1,
    }  # fmt: skip


def test_the_picture_has_error_bars_of_all_repeats(recorded: Recorded) -> None:
    members = read_front(recorded.folder)
    spreads = spreads_of(recorded.folder, members)
    assert {len(spread.values) for spread in spreads.values()} == {4}
    names = [trace.name for trace in figure_of_front(recorded.folder, members).data]
    assert names == ["evaluations", "front", "mean ± standard deviation, other seeds", "guide"]


def test_the_report_compares_by_the_repeats(recorded: Recorded) -> None:
    records = recorded.records
    _, plot, table, *_ = front.MEMBER.write(records)
    assert isinstance(plot, Plot) and isinstance(table, Table)
    (bars,) = (trace for trace in plot.figure.data if trace.error_y.array is not None)
    assert sorted(bars.error_y.array) == [s.deviation for s in records.spreads.values()]
    column = table.columns.index("with other seeds")
    members = [row for row in table.rows if isinstance(row[0], Link)]
    assert [row[column] for row in members] == [str(s) for s in records.spreads.values()]
    assert members[0][column] == "0.5025 ± 0.0013 (4 seeds)"
    assert all(len(row) == len(table.columns) for row in table.rows)

    # The two best within the whole budget are the last two of the front, which overlap.
    (first, *_) = [piece for piece in choosing.MEMBER.write(records) if isinstance(piece, Table)]
    sure = [str(row[-1]) for row in first.rows]
    assert "within chance (p = " in sure[0]
    assert any("more than chance (p = " in line for line in sure[1:])


def test_each_end_is_said(recorded: Recorded) -> None:
    members, said = read_front(recorded.folder), Said()
    done, lost = Repeat(members[0].evaluation.architecture, 1), repeats_of(members, [7])[0]
    jobs = RepeatJobs([done, lost], recorded.folder, "recipe", "val_accuracy", said)
    assert (jobs.next(), jobs.next(), jobs.next()) == (done, lost, None)
    jobs.ended(done, None)
    jobs.ended(lost, "its worker died 3 times")
    assert said.lines[0].startswith("repeat 1 of 2: ")
    assert said.lines[0].endswith("with seed 1: val_accuracy 0.501")
    assert said.lines[1].endswith("with seed 7: failed: its worker died 3 times")


def test_what_is_there_is_not_run_again(recorded: Recorded) -> None:
    # The space file of these records is nowhere, so that running anything would fail.
    said = Said()
    found = repeat_front(recorded.folder, 4, said)
    assert said.lines == [] and len(found.differences) == len(found.members) - 1
    only = repeat_front(recorded.folder, 4, said, only={found.members[0].id})
    assert [one.id for one in only.members] == [found.members[0].id]
    with pytest.raises(SpaceError, match="1 seeds have no spread; give at least 2"):
        repeat_front(recorded.folder, 1, said)
    with pytest.raises(StorageError, match="relax --where"):
        repeat_front(recorded.folder, 4, said, only=[])


def test_an_empty_search_has_nothing_to_repeat(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no network on its front yet"):
        repeat_front(Recorded(tmp_path).folder, 3, Said())
    with pytest.raises(StorageError, match="no search 'none'"):
        repeat_front(replace(Recorded(tmp_path).folder, name="none"), 3, Said())


def test_the_command_shows_a_table_or_json(recorded: Recorded) -> None:
    given = ["front", "small", "--repeats", "4", "--storage", str(recorded.folder.root)]
    shown = CliRunner().invoke(make_app(), given, env={"COLUMNS": "200"})
    assert shown.exit_code == 0, shown.output
    assert "0.5025 ± 0.0013" in shown.output
    assert ": real (p = " in shown.output
    assert "not told apart with 4 seeds (p = " in shown.output
    printed = CliRunner().invoke(make_app(), [*given, "--json"])
    assert json.loads(printed.stdout)["metric"] == "val_accuracy"
    with pytest.raises(SpaceError, match="--repeats excludes --at and --refine"):
        CliRunner().invoke(make_app(), [*given, "--at", "macs <= 5"], catch_exceptions=False)

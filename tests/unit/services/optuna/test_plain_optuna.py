"""What people see of a search's study without this package: names, limits, words."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nas_theseus.services.optuna.storage import open_stored_study
from nas_theseus.space.genome import Genome
from nas_theseus.values.architecture_words import in_words
from nas_theseus.values.goals import Objective
from tests.unit.services.optuna.test_study import COSTS, SPACE, Bench

READ = """
import json, sys
import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

study = optuna.load_study(
    study_name="one", storage=JournalStorage(JournalFileBackend(sys.argv[1]))
)
assert not [name for name in sys.modules if name.startswith("nas_theseus")]
print(json.dumps({
    "names": study.metric_names,
    "directions": [direction.name for direction in study.directions],
    "best": [trial.number for trial in study.best_trials],
    "trials": [
        [trial.number, trial.state.name, trial.values, trial.constraints, trial.user_attrs]
        for trial in study.trials
    ],
}))
"""


def test_plain_optuna_reads_names_limits_words_and_the_best(tmp_path: Path) -> None:
    here = Bench(tmp_path)
    low, high = COSTS.range("macs")
    most = int(low + high) // 3
    here.run(here.study("random", limits=(f"macs <= {most}",)), 8)
    read = subprocess.run(
        [sys.executable, "-c", READ, str(tmp_path / "study.journal")],
        cwd=tmp_path,  # so that the package cannot be imported from the working folder either
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(read.stdout)
    assert found["names"] == ["val_accuracy", "macs"]
    assert found["directions"] == ["MAXIMIZE", "MINIMIZE"]
    best, refused = set(found["best"]), 0
    for number, state, values, constraints, marks in found["trials"]:
        assert state == TrialState.COMPLETE.name
        ((name, violation),) = constraints.items()
        assert marks["limits"].startswith(f"{name}: ")
        assert marks["limits"].endswith("kept") == (violation <= 0)
        assert violation == pytest.approx(max(0, values[1] - most) / most)
        if violation > 0:
            refused += 1
            assert marks["limits"] == f"{name}: broken by {violation:.1%} of it"
            assert number not in best
        else:
            (one,) = (o for o in here.results.values() if o.architecture.id in marks.values())
            assert marks["architecture"] == in_words(one.architecture)
    assert 0 < refused < len(found["trials"]) and best


def test_a_study_without_names_still_opens_and_gets_them(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    storage = JournalStorage(JournalFileBackend(str(path)))
    before = optuna.create_study(
        study_name="one", storage=storage, directions=["maximize", "minimize"]
    )
    assert before.metric_names is None
    here = Bench(tmp_path)
    here.run(here.study("random"), 2)
    here.study("random")
    assert path.read_text().count("study:metric_names") == 1  # written once
    assert optuna.load_study(study_name="one", storage=storage).metric_names == [
        "val_accuracy",
        "macs",
    ]


def test_names_do_not_stand_in_the_way_of_a_study_of_other_objectives(tmp_path: Path) -> None:
    """Other objectives are refused by the search's settings, with a message of their own."""
    goals = [*SPACE.goals, Objective("params", "minimize")]
    open_stored_study("one", tmp_path / "study.journal", SPACE.goals)
    stored = open_stored_study("one", tmp_path / "study.journal", goals)
    assert stored.study.metric_names == ["val_accuracy", "macs"]


def test_words_are_those_of_what_the_genes_mean(tmp_path: Path) -> None:
    here = Bench(tmp_path)
    here.run(here.study("random"), 3)
    storage = JournalStorage(JournalFileBackend(str(tmp_path / "study.journal")))
    genome = Genome(SPACE)
    for trial in optuna.load_study(study_name="one", storage=storage).trials:
        assert trial.user_attrs["architecture"] == in_words(genome.decode(trial.params))

"""The journal's file: one write for what belongs together, nothing of it after a kill."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from nas_theseus.errors import ServiceError
from nas_theseus.services.optuna.journal import Journal, open_journal
from nas_theseus.services.optuna.private import enqueued_genes

GENES = {
    f"gene_{i}": optuna.distributions.CategoricalDistribution(["a", "b", "c"]) for i in range(5)
}


def study(journal: Journal) -> optuna.Study:
    return optuna.create_study(
        study_name="one", storage=journal, sampler=optuna.samplers.RandomSampler(seed=0),
        load_if_exists=True,
    )  # fmt: skip


def test_optuna_reads_what_was_written_together_and_alone(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    journal = open_journal(path)
    mine = study(journal)
    for number in range(4):
        if number % 2:
            mine.tell(mine.ask(GENES), float(number))
        else:
            with journal.together():
                mine.tell(mine.ask(GENES), float(number))
    trials = mine.get_trials()
    theirs = optuna.load_study(
        study_name="one", storage=JournalStorage(JournalFileBackend(str(path)))
    )
    assert theirs.get_trials() == trials
    assert [trial.value for trial in trials] == [0.0, 1.0, 2.0, 3.0]
    assert study(open_journal(path)).get_trials() == trials


def test_entries_that_another_process_added_are_read_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    mine, theirs = study(open_journal(path)), study(open_journal(path))
    for number in range(3):
        theirs.tell(theirs.ask(GENES), 10.0 + number)
        mine.tell(mine.ask(GENES), float(number))
    assert mine.get_trials() == theirs.get_trials()
    assert [trial.value for trial in mine.trials] == [10.0, 0.0, 11.0, 1.0, 12.0, 2.0]


STATES: list[tuple[TrialState, ...] | None] = [
    None,
    (TrialState.WAITING,),
    (TrialState.RUNNING, TrialState.WAITING),
    (TrialState.COMPLETE,),
    (TrialState.RUNNING, TrialState.FAIL),
]


def test_trials_are_as_optuna_has_them_whenever_they_are_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    journal = open_journal(path)
    mine, theirs = study(journal), JournalStorage(JournalFileBackend(str(path)))
    number = theirs.get_study_id_from_name("one")

    def compare() -> None:
        for states in STATES:
            expected = theirs.get_all_trials(number, states=states)
            assert journal.get_all_trials(number, deepcopy=False, states=states) == expected
            assert journal.get_all_trials(number, states=states) == expected

    first, second = mine.ask(GENES), mine.ask(GENES)
    mine.enqueue_trial({"gene_0": "a"})
    compare()
    second.set_user_attr("stage", "convert")
    compare()
    mine.tell(second, 1.0)
    third = mine.ask(GENES)
    compare()
    mine.tell(first, state=TrialState.FAIL)
    compare()
    mine.tell(third, 0.5)
    compare()
    assert [trial.state.name for trial in mine.trials] == ["FAIL", "COMPLETE", "COMPLETE"]


def test_finished_trials_share_their_genes_and_are_as_optuna_has_them(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    journal = open_journal(path)
    mine = study(journal)
    genes = {**GENES, "flag": optuna.distributions.CategoricalDistribution([1, True, 1.0])}
    trials = [mine.ask(genes) for _ in range(29)]
    mine.enqueue_trial(trials[-1].params)
    trials.append(mine.ask(genes))
    for trial in trials[:-1]:
        mine.tell(trial, 1.0, state=TrialState.COMPLETE)
    mine.tell(mine.ask({}), state=TrialState.FAIL)  # a trial without genes between them
    mine.tell(trials[-1], 1.0)
    for read in (journal, open_journal(path)):
        kept = [trial for trial in study(read).get_trials(deepcopy=False) if trial.params]
        assert len(kept) == 30
        # The first one brings what the others have in common; it keeps its own names.
        assert {id(trial.distributions) for trial in kept} == {id(kept[0].distributions)}
        for name in genes:
            values = {(type(t.params[name]), t.params[name]) for t in kept}
            assert len({id(t.params[name]) for t in kept[1:]}) <= len(values)
        assert enqueued_genes(kept[-1]) is kept[-1].params
        plain = JournalStorage(JournalFileBackend(str(path)))
        theirs = optuna.load_study(study_name="one", storage=plain).get_trials()
        assert study(read).get_trials() == theirs
        assert [[type(v) for v in t.params.values()] for t in study(read).get_trials()] == [
            [type(v) for v in t.params.values()] for t in theirs
        ]


def test_what_others_wrote_before_the_lock_is_read_inside(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    mine, theirs = study(open_journal(path)), study(open_journal(path))
    journal = mine._storage
    assert isinstance(journal, Journal)
    theirs.tell(theirs.ask(GENES), 10.0)
    with journal.together():
        # The first thing inside is written, not read.
        mine.set_user_attr("first", 1)
        mine.tell(mine.ask(GENES), 1.0)
        assert [trial.value for trial in mine.trials] == [10.0, 1.0]
    theirs.tell(theirs.ask(GENES), 11.0)
    assert [trial.value for trial in mine.trials] == [10.0, 1.0, 11.0]
    assert mine.get_trials() == theirs.get_trials() == study(open_journal(path)).get_trials()


def test_trials_of_a_study_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        open_journal(tmp_path / "study.journal").get_all_trials(0)


def test_a_list_of_trials_is_the_callers_own(tmp_path: Path) -> None:
    mine = study(open_journal(tmp_path / "study.journal"))
    mine.tell(mine.ask(GENES), 1.0)
    mine.get_trials(deepcopy=False).clear()
    mine.get_trials()[0].params.clear()
    assert len(mine.get_trials(deepcopy=False)[0].params) == len(GENES)


def test_what_is_written_together_is_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path / "study.journal")
    mine = study(journal)
    flushed: list[int] = []
    fsync = os.fsync

    def counted(descriptor: int) -> None:
        flushed.append(descriptor)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counted)
    with journal.together():
        trial = mine.ask(GENES)
        trial.set_user_attr("said", 1)
        assert mine.trials[0].params == trial.params
    assert len(flushed) == 1


def test_an_error_inside_keeps_file_and_memory_equal(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    journal = open_journal(path)
    mine = study(journal)
    with pytest.raises(KeyError), journal.together():
        mine.ask(GENES)
        raise KeyError
    mine.tell(0, 1.0)
    assert study(open_journal(path)).get_trials() == mine.get_trials()


def test_a_kill_inside_leaves_nothing_of_it(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    mine = study(open_journal(path))
    mine.tell(mine.ask(GENES), 0.0)
    before = path.read_bytes()
    script = f"""
import os, sys, pathlib, optuna
from nas_theseus.services.optuna.journal import open_journal
journal = open_journal(pathlib.Path({str(path)!r}))
study = optuna.load_study(study_name="one", storage=journal)
with journal.together():
    study.ask().suggest_float("x", 0, 1)
    os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[4])}
    done = subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    again = study(open_journal(path))
    assert again.ask(GENES).number == 1


def test_a_flipped_bit_in_an_entry_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "study.journal"
    mine = study(open_journal(path))
    mine.tell(mine.ask(GENES), 0.25)
    whole = path.read_bytes()
    lines = whole.splitlines(keepends=True)
    line = next(n for n, text in enumerate(lines, 1) if b"0.25" in text)
    path.write_bytes(whole.replace(b"0.25", b"0.35"))
    said = f"damaged in line {line}: its checksum does not match.*head -n {line - 1} "
    with pytest.raises(ServiceError, match=said):
        open_journal(path)
    # A journal of an earlier version has no checksums; Optuna reads both.
    path.write_bytes(re.sub(rb',"crc32":"[0-9a-f]{8}"', b"", whole))
    assert b"crc32" not in path.read_bytes()
    assert study(open_journal(path)).trials == mine.trials

"""The study on real Optuna storage: no repeats, refusals told, the same again after a kill."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Identity, Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ServiceError, UnknownNameError
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.searches.proposals import Proposal
from nas_theseus.services.optuna import study as study_module
from nas_theseus.services.optuna.genes import distributions
from nas_theseus.services.optuna.marks import ARCHITECTURE, ESTIMATED, RUNGS, WORDS
from nas_theseus.services.optuna.marks import COSTS as COSTS_MARK
from nas_theseus.services.optuna.study import Problem, Study, StudySettings, enqueue, open_study
from nas_theseus.space.genome import Genome
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.architecture_words import in_words
from nas_theseus.values.conditions import parse_constraint
from nas_theseus.values.outcomes import CurvePoint, Evaluation, Failure, Outcome, Stopped
from nas_theseus.values.rung import rungs_of


def conv(inlet: int, outlet: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.ReLU())


HEAD = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
SPACE = SearchSpace(
    guide=cut(nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), HEAD), ["0", "1", "2"], (1, 8, 8)),
    task=digits(),
    blocks=[Keep(), Depthwise(expand=choice(1, 2)), Linear(), Identity()],
    max_span=2,
    keep=["head"],
)
COSTS = CostTable(SPACE)


def outcome(architecture: Architecture) -> Evaluation:
    """A quality made from the id: any deterministic function of the architecture will do."""
    quality = int(architecture.id, 16) % 1000 / 1000
    return Evaluation(
        architecture, "r", 0, {"val_accuracy": quality}, COSTS.of(architecture), 0, 0.0
    )


class Bench:
    """A study in a folder with the results it was given."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.results: dict[str, Outcome] = {}

    def study(self, sampler: str = "tpe", seed: int = 0, limits: tuple[str, ...] = ()) -> Study:
        constraints = [parse_constraint(text) for text in limits]
        rungs = rungs_of(SPACE.recipe, SPACE.metric)
        proposer = Proposer(SPACE, COSTS)
        return open_study(
            StudySettings("one", self.folder / "study.journal", sampler, seed),
            Problem(Genome(SPACE), SPACE.goals, constraints, COSTS.of, rungs, proposer),
            lambda architecture: self.results.get(architecture.id),
        )

    def finish(self, study: Study, proposal: Proposal) -> None:
        result = outcome(proposal.architecture)
        self.results[proposal.architecture.id] = result
        study.report(proposal, result)

    def run(self, study: Study, count: int) -> list[str]:
        ids = []
        for _ in range(count):
            proposal = study.propose()
            if proposal is None:
                break
            ids.append(proposal.architecture.id)
            self.finish(study, proposal)
        return ids


@pytest.fixture
def bench(tmp_path: Path) -> Callable[[str], Bench]:
    def make(name: str) -> Bench:
        (tmp_path / name).mkdir()
        return Bench(tmp_path / name)

    return make


@pytest.mark.parametrize("sampler", ["theseus", "tpe", "nsga2", "nsga3", "random"])
def test_proposals_never_repeat_and_follow_the_seed(
    bench: Callable[[str], Bench], sampler: str
) -> None:
    first, second, other = bench("a"), bench("b"), bench("c")
    ids = first.run(first.study(sampler), 25)
    assert len(set(ids)) == 25
    assert second.run(second.study(sampler), 25) == ids
    assert other.run(other.study(sampler, seed=1), 25) != ids


@pytest.mark.parametrize("sampler", ["theseus", "tpe", "nsga2"])
def test_a_study_killed_with_a_proposal_open_goes_on_as_if_it_had_not_been(
    bench: Callable[[str], Bench], sampler: str
) -> None:
    whole, killed = bench("whole"), bench("killed")
    ids = whole.run(whole.study(sampler), 72)
    found: list[str] = []
    for count in (1, 27, 40):
        study = killed.study(sampler)
        found += killed.run(study, count)
        study.propose()  # left open: the driver dies here
    found += killed.run(killed.study(sampler), 4)
    assert found == ids


def test_a_result_kept_before_the_kill_is_told_and_not_run_again(
    bench: Callable[[str], Bench],
) -> None:
    here = bench("a")
    study = here.study()
    here.run(study, 3)
    proposal = study.propose()
    assert proposal is not None
    here.results[proposal.architecture.id] = outcome(proposal.architecture)
    again = here.study()
    assert again.states["RUNNING"] == 0
    later = again.propose()
    assert later is not None and later.architecture != proposal.architecture


def test_genes_that_the_space_does_not_have_are_one_error(bench: Callable[[str], Bench]) -> None:
    """Such as those of a trial in a journal or database that somebody changed."""
    names = optuna.distributions.CategoricalDistribution(["kep"])
    blocks = [name for name in Genome(SPACE).genes if name.startswith("block_")]
    trial = optuna.trial.create_trial(
        state=TrialState.RUNNING,
        params=dict.fromkeys(blocks, "kep"),
        distributions=dict.fromkeys(blocks, names),
    )
    with pytest.raises(ServiceError, match="has genes that this space does not have .*another"):
        bench("changed").study()._architecture(trial)


def test_a_mark_that_is_no_name_is_no_architectures(bench: Callable[[str], Bench]) -> None:
    """Such as one in a journal that somebody changed."""
    here = bench("marked")
    ids = here.run(here.study(), 2)
    stored = optuna.load_study(
        study_name="one",
        storage=JournalStorage(JournalFileBackend(str(here.folder / "study.journal"))),
    )
    trial = optuna.trial.create_trial(
        value=None, values=[0.5, 1.0], user_attrs={ARCHITECTURE: [ids[0]]}
    )
    stored.add_trial(trial)
    assert here.study().propose() is not None


def test_a_proposal_killed_between_two_genes_is_made_again(bench: Callable[[str], Bench]) -> None:
    whole, torn = bench("whole"), bench("torn")
    ids = whole.run(whole.study(), 6)
    found = torn.run(torn.study(), 3)
    journal = torn.folder / "study.journal"
    stored = optuna.load_study(
        study_name="one",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(journal))
        ),
    )
    stored.ask().suggest_categorical("cut_1", [True, False])
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "half')
    found += torn.run(torn.study(), 3)
    assert found == ids
    assert journal.with_suffix(".torn").read_bytes().startswith(b'{"op_code"')


def test_a_proposal_killed_before_it_was_named_is_named_and_told_once(
    bench: Callable[[str], Bench],
) -> None:
    """A database has the genes before it has what they mean."""
    here = bench("unnamed")
    here.run(here.study(), 2)
    stored = optuna.load_study(
        study_name="one",
        storage=JournalStorage(JournalFileBackend(str(here.folder / "study.journal"))),
    )
    stored.ask(distributions(Genome(SPACE)))
    study = here.study()
    proposal = study.propose()
    assert proposal is not None
    (trial,) = (t for t in stored.get_trials() if t.state == TrialState.RUNNING)
    assert trial.user_attrs[ARCHITECTURE] == proposal.architecture.id
    assert trial.user_attrs[WORDS] == in_words(proposal.architecture)
    here.finish(study, proposal)
    del here.results[proposal.architecture.id]
    again = here.study().propose()  # its result is gone, as after damage
    assert again is not None and again.architecture == proposal.architecture


def test_a_lock_that_a_killed_driver_held_holds_nobody_up(bench: Callable[[str], Bench]) -> None:
    here = bench("a")
    held = (
        "from pathlib import Path; from nas_theseus.services.optuna.journal import open_journal; "
    )
    held += f"import os; open_journal(Path({str(here.folder / 'study.journal')!r})).together()"
    held += ".__enter__(); os.kill(os.getpid(), 9)"
    assert subprocess.run([sys.executable, "-c", held], check=False).returncode == -9
    # What Optuna's own lock leaves behind.
    (here.folder / "study.journal.lock").symlink_to(here.folder / "study.journal")
    assert len(here.run(here.study(), 3)) == 3


def test_a_constraint_is_refused_before_it_runs_and_told_as_violated(
    bench: Callable[[str], Bench],
) -> None:
    here = bench("a")
    low, high = COSTS.range("macs")
    limit = f"macs <= {(low + high) // 3}"
    study = here.study(limits=(limit,))
    here.run(study, 15)
    assert study.refused > 0
    for result in here.results.values():
        assert isinstance(result, Evaluation) and result.cost.macs <= (low + high) // 3
    states = study.states
    assert states["COMPLETE"] == len(here.results) + study.refused + study.duplicates
    assert states["RUNNING"] == 0


def test_proposals_that_mean_a_running_one_get_its_result(bench: Callable[[str], Bench]) -> None:
    here = bench("a")
    study = here.study("random")
    running = []
    while (proposal := study.propose()) is not None:
        running.append(proposal)
    assert len({p.architecture.id for p in running}) == len(running)
    assert study.duplicates > 0 and study.states["RUNNING"] > len(running)
    for proposal in running:
        here.finish(study, proposal)
    assert study.states["RUNNING"] == 0


def test_a_space_without_anything_new_is_exhausted(bench: Callable[[str], Bench]) -> None:
    here = bench("a")
    study = here.study("random")
    ids = here.run(study, SPACE.count() + 1)
    # The end is 200 tries in a row without anything new, not the very last architecture.
    assert 0.9 * SPACE.count() < len(ids) <= SPACE.count()
    assert study.propose() is None
    assert here.study("random").propose() is None


@pytest.mark.parametrize("sampler", ["tpe", "nsga2"])
def test_a_converged_sampler_still_finds_something_new(
    bench: Callable[[str], Bench], sampler: str
) -> None:
    """Repeated proposals lead to a neighbour: at most one of them for each new architecture."""
    here = bench("a")
    study = here.study(sampler)
    ids = here.run(study, 90)
    assert len(set(ids)) == 90
    assert study.duplicates <= 90


def test_a_failure_is_told_and_the_study_goes_on(bench: Callable[[str], Bench]) -> None:
    here = bench("a")
    study = here.study()
    proposal = study.propose()
    assert proposal is not None
    failure = Failure(proposal.architecture, "r", 0, "convert", "diverged")
    here.results[proposal.architecture.id] = failure
    study.report(proposal, failure)
    assert study.states["FAIL"] == 1
    assert proposal.architecture.id not in here.run(study, 10)


def test_a_stopped_one_and_its_twin_are_told_what_is_predicted_and_marked(
    bench: Callable[[str], Bench],
) -> None:
    here = bench("a")
    study = here.study("random", limits=("val_accuracy >= 0.95",))
    proposal = study.propose()
    assert proposal is not None
    journal = JournalStorage(JournalFileBackend(str(here.folder / "study.journal")))
    raw = optuna.load_study(study_name="one", storage=journal)
    raw.enqueue_trial(raw.trials[proposal.number].params)
    assert study.propose() is not None  # what was proposed again is passed over
    evaluation = replace(
        outcome(proposal.architecture),
        curve=(CurvePoint("val_accuracy", 0, 0.25), CurvePoint("val_accuracy", 1, 0.5)),
    )
    stopped = Stopped("epoch_1", evaluation, {"val_accuracy": 0.75}, 30)
    here.results[proposal.architecture.id] = stopped
    study.report(proposal, stopped)
    told = [t for t in raw.trials if t.state == TrialState.COMPLETE]
    assert len(told) == 2
    for trial in told:
        assert trial.values == [0.75, COSTS.of(proposal.architecture).macs]
        assert trial.user_attrs[ESTIMATED] == "epoch_1"
        assert trial.user_attrs[RUNGS] == {"converted": 0.25, "epoch_1": 0.5}
        assert trial.user_attrs[COSTS_MARK] == evaluation.cost.known()
        assert max(trial.constraints.values()) == pytest.approx((0.95 - 0.75) / 0.95)
    assert proposal.architecture.id not in here.run(study, 10)


@pytest.mark.parametrize("sampler", ["theseus", "tpe", "nsga2"])
def test_a_study_with_stopped_ones_goes_on_after_a_kill_as_if_it_had_not_been(
    bench: Callable[[str], Bench], sampler: str
) -> None:
    def run(here: Bench, study: Study, count: int) -> list[str]:
        ids = []
        for _ in range(count):
            proposal = study.propose()
            assert proposal is not None
            end = outcome(proposal.architecture)
            quality = end.metrics["val_accuracy"]
            points = (CurvePoint("val_accuracy", 0, quality / 3),
                      CurvePoint("val_accuracy", 1, quality / 2))  # fmt: skip
            result: Outcome = replace(end, curve=points)
            if quality < 0.4:
                there = replace(end, metrics={"val_accuracy": quality / 3}, curve=points[:1])
                result = Stopped("converted", there, {"val_accuracy": quality}, 1)
            here.results[proposal.architecture.id] = result
            study.report(proposal, result)
            ids.append(proposal.architecture.id)
        return ids

    whole, killed = bench("whole"), bench("killed")
    ids = run(whole, whole.study(sampler), 24)
    found = run(killed, killed.study(sampler), 11)
    killed.study(sampler).propose()  # left open: the driver dies here
    assert found + run(killed, killed.study(sampler), 13) == ids


def test_gaussian_processes_propose_over_the_genome(bench: Callable[[str], Bench]) -> None:
    here = bench("a")
    assert len(set(here.run(here.study("gp"), 12))) == 12  # from the eleventh on by its model


PROBLEM = Problem(Genome(SPACE), SPACE.goals, [], COSTS.of)


def unknown(architecture: Architecture) -> Outcome | None:
    return None


def test_theseus_without_the_space_says_what_it_needs_before_anything_is_made(
    tmp_path: Path,
) -> None:
    settings = StudySettings("one", tmp_path / "study.journal", "theseus", 0)
    with pytest.raises(ServiceError, match="give the study a Proposer, or use another sampler"):
        open_study(settings, PROBLEM, unknown)
    assert not list(tmp_path.iterdir())


def test_a_sampler_that_does_not_exist_is_refused_with_those_that_do(tmp_path: Path) -> None:
    settings = StudySettings("one", tmp_path / "study.journal", "tpee", 0)
    with pytest.raises(UnknownNameError, match="unknown sampler 'tpee'; use gp, .*tpe"):
        open_study(settings, PROBLEM, unknown)


def test_warm_starts_come_first(tmp_path: Path) -> None:
    settings = StudySettings("one", tmp_path / "study.journal", "tpe", 0)
    guide = SPACE.guide_architecture()
    assert guide is not None
    proposal = open_study(settings, PROBLEM, unknown, lambda: [guide]).propose()
    assert proposal is not None and proposal.architecture == guide

    def never() -> list[Architecture]:
        raise AssertionError("warm starts were asked for in a study that has begun")

    open_study(settings, PROBLEM, unknown, never)


def test_a_storage_that_does_not_answer_names_it_without_the_password() -> None:
    address = "postgresql+psycopg2://me:secret@127.0.0.1:1/db"
    with pytest.raises(ServiceError) as caught:
        open_study(StudySettings("one", address, "tpe", 0), PROBLEM, unknown)
    assert "127.0.0.1:1/db" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_architectures_put_in_front_come_next_and_open_ones_are_not_repeated(
    bench: Callable[[str], Bench],
) -> None:
    elsewhere, here = bench("a"), bench("b")
    elsewhere.run(elsewhere.study("random", seed=7), 12)
    study = here.study()
    here.run(study, 3)
    running = study.propose()  # left open: the driver dies here
    assert running is not None
    known = {running.architecture} | {one.architecture for one in here.results.values()}
    wanted = [o.architecture for o in elsewhere.results.values() if o.architecture not in known][:2]
    assert len(wanted) == 2

    def put() -> set[Architecture]:
        journal = here.folder / "study.journal"
        return enqueue("one", journal, Genome(SPACE), SPACE.goals, wanted)

    assert put() == put() == {running.architecture, *wanted}
    again = here.study()
    proposals = [again.propose() for _ in range(4)]
    found = [one.architecture for one in proposals if one is not None]
    assert found[:3] == [running.architecture, *wanted]
    assert found[3] not in {*known, *wanted}


def test_a_result_that_is_gone_is_made_again(bench: Callable[[str], Bench]) -> None:
    whole = bench("whole")
    undisturbed = whole.run(whole.study(), 8)
    here = bench("here")
    here.run(here.study(), 5)
    gone = here.results.pop(undisturbed[2])
    study = here.study()
    again = study.propose()
    assert again is not None and again.architecture == gone.architecture
    here.finish(study, again)
    assert here.run(study, 3) == undisturbed[5:]
    assert study.states == here.study().states == whole.study().states


def test_a_study_that_lost_its_end_is_told_the_results_again(
    bench: Callable[[str], Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Results that are told again are no fruitless proposals, however many they are.
    monkeypatch.setattr(study_module, "FRUITLESS_PROPOSALS", 8)
    whole = bench("whole")
    undisturbed = whole.run(whole.study(), 12)
    here = bench("here")
    here.run(here.study(), 9)
    for kept in (0.6, 0):
        journal = here.folder / "study.journal"
        lines = journal.read_bytes().splitlines(keepends=True)
        journal.write_bytes(b"".join(lines[: int(kept * len(lines))]))
        study = here.study()
        proposal = study.propose()
        assert proposal is not None and proposal.architecture.id == undisturbed[9]
    here.finish(study, proposal)
    assert here.run(study, 2) == undisturbed[10:]
    assert study.states == whole.study().states

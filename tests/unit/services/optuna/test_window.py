"""What samplers see of a long study: front, running and latest trials, or two generations."""

from __future__ import annotations

import random

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.trial import TrialState

from nas_theseus.estimate.pareto import front
from nas_theseus.services.optuna.genes import FixedGenome
from nas_theseus.services.optuna.marks import ESTIMATED
from nas_theseus.services.optuna.sampler import sampler_of
from nas_theseus.services.optuna.window import Generations, Thinned, Window
from nas_theseus.values.registers import SAMPLERS


@pytest.fixture
def study() -> optuna.Study:
    return optuna.create_study(
        directions=["maximize", "minimize"], sampler=optuna.samplers.RandomSampler(seed=0)
    )


def add(study: optuna.Study, quality: float, cost: float, **marks: object) -> int:
    trial = study.ask()
    for name, mark in marks.items():
        trial.set_user_attr(name, mark)
    study.tell(trial, [quality, cost])
    return trial.number


def seen(window: Window, study: optuna.Study) -> list[int]:
    return [trial.number for trial in window.of(study).get_trials(deepcopy=False)]


def test_a_short_study_is_seen_whole(study: optuna.Study) -> None:
    for number in range(5):
        add(study, 0.1, float(number))
    assert Thinned(5).of(study) is study


SPREAD = {12: [0, 2, 4, 6], 30: [0, 8, 16, 24], 99: [0, 32, 64]}


def test_front_latest_and_some_of_the_others_at_every_length(study: optuna.Study) -> None:
    rng = random.Random(0)
    window = Thinned(10)
    points: list[tuple[float, float]] = []
    for count in range(1, 100):
        points.append((rng.random(), rng.random()))
        add(study, *points[-1])
        shown = seen(window, study)
        # Made anew, as after a restart, it is the same.
        assert shown == seen(Thinned(10), study)
        if count > 10:
            kept = front([(-quality, cost) for quality, cost in points[: count - 5]])
            assert {*kept, *range(count - 5, count)} <= set(shown)
            assert len(shown) <= len(kept) + 10
        if count in SPREAD:
            assert shown == sorted({*kept, *SPREAD[count], *range(count - 5, count)})


def test_a_window_moves_in_steps_and_only_grows_between_them(study: optuna.Study) -> None:
    rng = random.Random(0)
    window, before, moved = Thinned(64), list[int](), []
    for count in range(1, 120):
        add(study, rng.random(), rng.random())
        shown = seen(window, study)
        assert shown == seen(Thinned(64), study)
        if shown[: len(before)] != before:
            moved.append(count)
        before = shown
    # Half of 64 are the latest; the window moves by an eighth of them.
    assert len(moved) > 8 and set(moved) <= set(range(68, 120, 4))


def test_of_equal_results_on_the_front_the_first_is_seen(study: optuna.Study) -> None:
    for _ in range(9):
        add(study, 0.5, 1.0)
    assert seen(Thinned(4), study) == [0, 4, 7, 8]


def test_what_still_runs_is_seen_until_it_ends(study: optuna.Study) -> None:
    window = Thinned(2)
    add(study, 0.5, 1.0)
    running = study.ask()
    for _ in range(4):
        add(study, 0.4, 2.0)
    assert seen(window, study) == [0, 1, 5]
    study.tell(running, [0.9, 2.0])
    assert seen(window, study) == [0, 1, 5]  # on the front now
    study.ask()
    add(study, 0.95, 0.5)
    assert window.of(study).get_trials(states=[TrialState.RUNNING])[0].number == 6
    for _ in range(2):
        add(study, 0.1, 3.0)
    assert seen(window, study) == [0, 6, 7, 9]  # 7 dominates the old front; 0 is spread


def test_failed_predicted_and_refused_trials_are_not_kept(study: optuna.Study) -> None:
    failed = study.ask()
    study.tell(failed, state=TrialState.FAIL)
    add(study, 0.99, 0.1, **{ESTIMATED: "rung"})
    breaking = study.ask()
    breaking.set_constraint("macs", 0.5)
    study.tell(breaking, [0.98, 0.1])
    kept = add(study, 0.5, 1.0)
    for _ in range(2):
        add(study, 0.1, 3.0)
    assert seen(Thinned(2), study) == [0, kept, 5]


GENOME: dict[str, BaseDistribution] = {
    name: CategoricalDistribution((0, 1, 2)) for name in ("a", "b", "c", "d")
}


def window_of(sampler: str) -> Window | None:
    make = sampler_of(sampler).window
    return None if make is None else make()


def genetic(sampler: str, window: Window | None, made_anew: bool) -> optuna.Study:
    """400 proposals, up to 8 open at once, ending in any order; some fail."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    rng = random.Random(0)
    open_: list[optuna.Trial] = []
    for number in range(400):
        if made_anew:
            window = window_of(sampler)
        study.sampler = FixedGenome(sampler_of(sampler).make(number, None), GENOME, window)
        open_.append(study.ask(GENOME))
        while len(open_) > rng.randrange(8):
            trial = open_.pop(rng.randrange(len(open_)))
            if rng.random() < 0.1:
                study.tell(trial, state=TrialState.FAIL)
            else:
                values = trial.params.values()
                study.tell(trial, [sum(values) + rng.random(), trial.params["a"] + rng.random()])
    return study


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3"])
@pytest.mark.parametrize("made_anew", [False, True])
def test_a_genetic_sampler_proposes_as_from_the_whole_study(sampler: str, made_anew: bool) -> None:
    whole = genetic(sampler, None, made_anew=False)
    windowed = genetic(sampler, window_of(sampler), made_anew)
    assert len({tuple(trial.params.values()) for trial in whole.trials}) > 40
    assert [t.params for t in windowed.trials] == [t.params for t in whole.trials]
    assert [t.system_attrs for t in windowed.trials] == [t.system_attrs for t in whole.trials]


def test_of_a_genetic_search_two_generations_and_their_parents_are_seen() -> None:
    study = genetic("nsga2", None, made_anew=False)
    shown = Generations(optuna.samplers.NSGAIISampler).of(study).get_trials(deepcopy=False)
    assert 20 <= len(shown) <= 5 * 20 + 8


def test_every_sampler_that_reads_trials_has_a_window() -> None:
    assert {name for name in SAMPLERS if window_of(name) is None} == {"random"}


def test_a_sampler_reads_only_the_trials_that_it_is_shown(study: optuna.Study) -> None:
    """With other results in the trials that are left out, TPE proposes the same."""
    proposed = []
    for hidden in (0.1, 0.9):
        study = optuna.create_study(directions=["maximize", "minimize"])
        study.sampler = optuna.samplers.RandomSampler(seed=0)
        for number in range(60):
            trial = study.ask(GENOME)
            # Odd ones of the older half are left out: the others dominate them.
            study.tell(trial, [hidden, 9.0] if number % 2 and number < 40 else [1.0, 1.0])
        study.sampler = FixedGenome(sampler_of("tpe").make(0, None), GENOME, Thinned(40))
        shown = Thinned(40).of(study).get_trials(deepcopy=False)
        assert all(trial.values == [1.0, 1.0] for trial in shown)
        proposed.append(study.ask(GENOME).params)
    assert proposed[0] == proposed[1]

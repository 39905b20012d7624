"""Searches with spaces and options of their own, each from its beginning."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import mlflow
import pytest
import torch
from safetensors.torch import save_file

import nas_theseus
from nas_theseus.estimate.pareto import front_of, is_feasible
from nas_theseus.guide.weights import plain_state
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources
from nas_theseus.values.goals import Constraint
from nas_theseus.values.outcomes import Evaluation, Stopped
from tests.integration.commands import SPACE, Desk, kept_evaluations, results, summary

# Several whole searches one after the other, on what may be a busy machine.
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    """One folder; searches in it share the guide that the first one trains."""
    return Desk(tmp_path_factory.mktemp("desk"))


@pytest.mark.slow
def test_two_searches_at_once_convert_each_block_once(desk: Desk) -> None:
    names = ("one", "two")
    running = [
        subprocess.Popen(
            desk.command("search", "small.py", "--name", name, "--trials", "6", "--parallel", "1",
                         "--library", "shared"),
            cwd=desk.folder, env=desk.environment(), stdout=subprocess.DEVNULL,
        )
        for name in names
    ]  # fmt: skip
    assert [search.wait(timeout=600) for search in running] == [0, 0]
    converted = [summary(desk, name)["blocks_converted"] for name in names]
    kept = list((desk.folder / "shared").glob("blocks-*/*.json"))
    assert sum(converted) == len(kept) > 0
    assert results(desk.evaluations("one")) == results(desk.evaluations("two"))


@pytest.mark.slow
def test_a_new_space_works_as_it_is_written(desk: Desk) -> None:
    written = desk.run("new", "mine.py")
    assert written.returncode == 0 and "no mistakes" in written.stdout
    done = desk.run("search", "mine.py", "--trials", "5", "--parallel", "2", "--sampler", "random")
    assert done.returncode == 0, done.stderr
    found = desk.evaluations("mine")
    assert len(found) == 5
    assert all(evaluation.cost.macs <= 600e3 for evaluation in found.values())


@pytest.mark.slow
def test_relative_paths_of_a_space_mean_the_same_in_workers(desk: Desk) -> None:
    """A space with its own weights file and its own text, both named relative to the folder."""
    (desk.folder / "plays.txt").write_text("to be or not to be that is the question " * 60)
    (desk.folder / "textual.py").write_text(
        "from pathlib import Path\n"
        "from nas_theseus.tasks import digits\n"
        "assert Path('plays.txt').is_file(), Path.cwd()\n"
        + SPACE.replace("(1, 8, 8)),", '(1, 8, 8), weights="own.safetensors"),').replace(
            "guide_training=Recipe(epochs=4, distill=0, batch_size=64),",
            "beat_chance=False,  # its weights are random",
        )
    )
    torch.manual_seed(0)
    model = load_space(Sources("small.py", SPACE)).guide
    own = {k.split(".", 2)[2]: v for k, v in plain_state(model).items()}
    save_file(own, desk.folder / "own.safetensors")
    desk.search_file("textual.py", "--trials", "2", "--parallel", "1")
    assert len(desk.evaluations("textual")) == 2
    (desk.folder / "own.safetensors").unlink()
    name, _ = desk.front("textual")[-1]
    folder = desk.folder / "theseus" / "searches" / "textual" / "front" / name
    (folder / "space.py").write_text(
        (folder / "space.py").read_text().replace("assert Path", "# assert Path")
    )
    assert nas_theseus.load(folder, trust_code=True) is not None


def test_changed_weights_under_the_same_name_are_refused(desk: Desk) -> None:
    text = SPACE.replace("(1, 8, 8)),", '(1, 8, 8), weights="mine.safetensors"),').replace(
        "guide_training=Recipe(epochs=4, distill=0, batch_size=64),", ""
    )
    (desk.folder / "weighted.py").write_text(text)
    state = plain_state(load_space(Sources("small.py", SPACE)).guide)
    own = {k.split(".", 2)[2]: v for k, v in state.items()}
    save_file(own, desk.folder / "mine.safetensors")
    desk.search_file("weighted.py", "--trials", "1", "--parallel", "1")
    own["0.0.weight"] = own["0.0.weight"] + 1
    save_file(own, desk.folder / "mine.safetensors")
    done = desk.run("search", "weighted.py", "--trials", "2")
    assert done.returncode == 2
    assert "the guide's initial weights or the training data changed since" in done.stderr


@pytest.mark.slow
def test_a_new_budget_is_answered_without_training_and_refined_by_one_trial(desk: Desk) -> None:
    storage = desk.folder / "again"
    (desk.folder / "budget.py").write_text(SPACE)
    desk.search_file("budget.py", "--trials", "3", "--storage", "again")
    kept = SearchFolder(storage, "budget")
    middle = sorted(e.cost.macs or 0 for e in kept_evaluations(kept))[1]
    budget = ("budget", "--storage", "again", "--at", f"macs <= {middle}")

    def files() -> set[tuple[Path, int]]:
        return {(p, p.stat().st_mtime_ns) for p in storage.rglob("*") if p.is_file()}

    before = files()
    told = desk.run("front", *budget, "--json")
    assert told.returncode == 0, told.stderr
    found = json.loads(told.stdout)
    assert files() == before  # no block, no evaluation, nothing
    assert {row["architecture"] for row in found["evaluated"]} == {
        m.evaluation.architecture.id
        for m in read_front(kept, [Constraint("macs", "<=", middle)])
    }  # fmt: skip
    best = found["predicted"][0]
    assert best["macs"] <= middle and found["epsilon"] == 0

    known = {e.architecture.id for e in kept_evaluations(kept)}
    refined = desk.run("front", *budget, "--refine")
    assert refined.returncode == 0, refined.stderr
    after = {e.architecture.id: e for e in kept_evaluations(kept)}
    assert after.keys() - known == {best["architecture"]} and len(after) == 4
    assert after[best["architecture"]].cost.macs == best["macs"]
    assert len(list(kept.block_outcomes())) >= best["blocks_to_convert"]
    # The answer: the most accurate of all evaluated under the budget, on the front.
    under = [e for e in after.values() if (e.cost.macs or 0) <= middle]
    most = max(e.values()["val_accuracy"] for e in under)
    assert most == max(
        m.evaluation.values()["val_accuracy"]
        for m in read_front(kept, [Constraint("macs", "<=", middle)])
    )
    once_more = json.loads(desk.run("front", *budget, "--json").stdout)
    assert best["architecture"] not in {row["architecture"] for row in once_more["predicted"]}
    assert "4 trials are done" in refined.stdout and "evaluated of budget with" in refined.stdout
    impossible = desk.run("front", *budget[:-1], "macs <= 1")
    assert impossible.returncode == 2 and "the closest has macs = " in impossible.stderr
    (desk.folder / "budget.py").rename(desk.folder / "moved.py")
    try:
        refused = desk.run("front", *budget)
        assert refused.returncode == 2 and "read the code, then" in " ".join(refused.stderr.split())
        assert desk.run("front", *budget, "--trust-code").returncode == 0
    finally:
        (desk.folder / "moved.py").rename(desk.folder / "budget.py")


def test_candidates_that_fall_behind_are_stopped_and_on_no_front(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = Desk(tmp_path)
    (desk.folder / "long.py").write_text(
        SPACE.replace("recipe=Recipe(epochs=1", "recipe=Recipe(epochs=2")
    )
    # Proposals at random, so that there is something to stop.
    options = ("--parallel", "1", "--sampler", "random")
    output = desk.search_file("long.py", "--trials", "16", *options)
    outcomes = list(SearchFolder(desk.folder / "theseus", "long").outcomes())
    stopped = {o.architecture.id for o in outcomes if isinstance(o, Stopped)}
    ended = [o for o in outcomes if isinstance(o, Evaluation)]
    assert stopped and len(stopped) + len(ended) == 16
    assert f"rungs: {len(stopped)} stopped" in output and "Kendall's tau" in output
    front = desk.front("long")
    goals = load_space(Sources("long.py", SPACE)).goals
    limits = Beginning.read(SearchFolder(desk.folder / "theseus", "long")).constraints
    better = [e for e in ended if is_feasible(e, limits)]
    assert [name for name, _ in front] == [e.architecture.id for e in front_of(better, goals)]
    kept = summary(desk, "long")
    assert (kept["trials_stopped"], kept["tau_architectures"]) == (len(stopped), len(ended) - 1)
    refused = desk.run("search", "long.py", "--no-rungs", "--trials", "17")
    assert refused.returncode == 2 and "it began with rungs" in refused.stderr

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    mlflow.set_tracking_uri(f"sqlite:///{desk.folder / 'mlflow.db'}")
    try:
        killed = mlflow.search_runs(
            experiment_names=["nas-theseus"], filter_string="attributes.status = 'KILLED'"
        )
        assert set(killed["tags.theseus.architecture"]) == stopped
        assert set(killed["tags.theseus.front"]) == {"false"}
    finally:
        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]


def test_a_budget_is_answered_exactly_before_anything_is_trained(desk: Desk) -> None:
    options = ("--name", "filled", "--executor", "inline", "--parallel", "1")
    said = desk.search(*options, "--all-blocks", "--trials", "0")
    assert "before the first trial: " in said and "blocks to convert and score" in said
    assert desk.evaluations("filled") == {}
    answered = desk.run("front", "filled", "--at", "macs <= 100000")
    assert answered.returncode == 0, answered.stderr
    assert "prior" in answered.stdout
    again = desk.search(*options, "--trials", "2")
    assert "blocks to convert" not in again
    assert len(desk.evaluations("filled")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--trials", "0"), "trials=0 evaluates nothing"),
        (("--all-blocks", "--no-library"), "all_blocks fills the library"),
    ],
)
def test_a_search_without_work_is_refused(
    desk: Desk, options: tuple[str, ...], message: str
) -> None:
    refused = desk.run("search", "small.py", *options)
    assert refused.returncode != 0 and message in refused.stderr

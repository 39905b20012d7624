"""A new budget, answered from results and blocks that were put there by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_theseus.cli.tables import predicted_table
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import LibraryError, LimitError, SpaceError, StorageError
from nas_theseus.estimate.additive import AdditiveEstimate
from nas_theseus.estimate.block_scores import capacities
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.searches.beginning import begin
from nas_theseus.searches.budget import Answer, Prediction, answer, parse_budget
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.goals import Constraint
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import BlockOutcome, Cost, CurvePoint, Evaluation, Failure, Stopped
from nas_theseus.values.settings import SearchSettings

TEXT = """
from torch import nn
from nas_theseus import SearchSpace, choice, cut, maximize, minimize
from nas_theseus.blocks import Basic, Identity, Keep, Linear
from nas_theseus.tasks import digits


def conv(inlet, outlet):
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.ReLU())


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)), task=digits(), keep=["head"], max_span=2,
        blocks=[Keep(), Basic(width=choice(0.5, 1)), Linear(), Identity()],
        objectives=[maximize("val_accuracy"), minimize("macs")], constraints=["params <= 4e3"],
    )
"""
PERPLEXITY = TEXT.replace('maximize("val_accuracy")', 'minimize("val_perplexity")')


class Desk:
    """A search that evaluated some architectures: results are made up, blocks have no weights."""

    def __init__(self, root: Path, text: str = TEXT, *, library: bool = True) -> None:
        self.storage = SearchFolder(root, "small")
        self.storage.create()
        (root / "small.py").write_text(text)
        space = load_space(root / "small.py")
        recipe = space.recipe.model_copy(update={"library": library})
        self.space: SearchSpace = replace(space, recipe=recipe)
        sources = Sources(str(root / "small.py"), text)
        begin(self.storage, SearchSettings(name="small"), self.space, sources)
        prepare_guide(
            space.guide, space.task, None, self.storage.guides, torch.device("cpu")
        )  # fmt: skip
        self.costs, self.keys = CostTable(self.space), BlockKeys(self.space)
        self.every = every(self.space)
        self.library = Library(self.storage.library)
        self.told: dict[Architecture, float] = {}

    def evaluate(self, architecture: Architecture, quality: float) -> None:
        self.told[architecture] = quality
        cost, metric = self.costs.of(architecture), self.space.goals[0].name
        self.storage.write_outcome(
            Evaluation(architecture, self.space.recipe.id, 0, {metric: quality}, cost, 0, 0.0)
        )

    def evaluate_some(self, count: int = 12) -> None:
        for architecture in self.some(count):
            self.evaluate(architecture, 0.9 - loss(architecture))

    def some(self, count: int) -> list[Architecture]:
        chosen = np.random.default_rng(0).choice(len(self.every), count, replace=False)
        return [self.every[i] for i in chosen]

    def put(self, keys: Sequence[BlockKey]) -> None:
        for key in keys:
            facts = Facts(0.9, self.error(key.choice), 1, 1, 0.1, "cpu")
            self.library.put(key, {"weight": torch.zeros(1)}, facts)

    def error(self, choice: BlockChoice) -> float:
        return derive_seed(choice) % 100 / 100

    def answer(self, *budget: str, count: int = 3, distance: int = 1) -> Answer:
        return answer(
            self.storage, parse_budget(" and ".join(budget)), count, distance=distance,
            trust_code=True,
        )  # fmt: skip

    def under(self, *budget: str) -> list[Architecture]:
        limits = [*parse_budget(" and ".join(budget)), *self.space.limits]
        known = {one: self.costs.of(one).known() for one in self.every}
        return [o for o in self.every if not any(li.violation(known[o]) for li in limits)]


def every(space: SearchSpace) -> list[Architecture]:
    """All architectures of a space without free widths, by recursion."""

    def behind(start: int) -> list[tuple[BlockChoice, ...]]:
        if start == len(space.guide):
            return [()]
        spans = [span for span in space.spans() if span.start == start]
        choices = [choice for span in spans for choice in space.choices(span)]
        return [(one, *rest) for one in choices for rest in behind(one.span.stop)]

    return [Architecture(choices) for choices in behind(0)]


@cache
def loss(architecture: Architecture) -> float:
    each = [derive_seed("loss", c) % 100 for c in architecture.choices if c.block != "keep"]
    return sum(each) / 2000


def medians(desk: Desk) -> tuple[int, int]:
    costs = [desk.costs.of(one) for one in desk.every]
    return (
        int(np.median([cost.macs for cost in costs if cost.macs])),
        int(np.median([cost.params for cost in costs if cost.params])),
    )


def test_budgets_are_limits_on_additive_costs(tmp_path: Path) -> None:
    macs, params = Constraint("macs", "<=", 5e6), Constraint("params", ">=", 1e4)
    assert parse_budget("macs <= 5e6") == (macs,)
    assert parse_budget(" macs<=5e6  and params >= 1e4 ") == (macs, params)
    with pytest.raises(SpaceError) as unreadable:
        parse_budget("macs < 5 and latency_ms <= 3 and params <= 1e4 and")
    assert "'macs < 5' must read" in str(unreadable.value)
    assert "'params <= 1e4 and' must read" in str(unreadable.value)
    desk = Desk(tmp_path)
    desk.evaluate_some(1)
    with pytest.raises(SpaceError) as others:
        desk.answer("latency_ms <= 3", "macs <= 5e6", "val_accuracy >= 0.9")
    measured, quality = others.value.mistakes
    said = "latency_ms in 'latency_ms <= 3' is measured on finished networks, and this search does"
    assert said in measured
    assert "val_accuracy in 'val_accuracy >= 0.9' is not a cost" in quality
    assert "a budget of this search can be on macs, params" in quality
    assert "weight_bytes" in quality and "latency_ms" not in quality
    with pytest.raises(SpaceError, match="'' must read"):
        parse_budget("")


def test_a_budget_may_be_on_a_cost_that_is_counted_only_now(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.evaluate_some()
    counting = replace(desk.space, constraints=[*desk.space.constraints, "weight_bytes >= 0"])
    table = CostTable(counting)
    size = {one: table.of(one)["weight_bytes"] for one in desk.every}
    limit = float(np.median(list(size.values())))
    found = desk.answer(f"weight_bytes <= {limit}")
    within = [one for one in desk.told if size[one] <= limit]
    assert 0 < len(within) < len(desk.told)
    assert found.evaluated and found.predicted
    for member in found.evaluated:
        assert member.evaluation.value("weight_bytes") == size[member.evaluation.architecture]
        assert member.evaluation.architecture in within
    best = max(within, key=desk.told.__getitem__)
    assert best in [member.evaluation.architecture for member in found.evaluated]
    assert all(size[one.architecture] <= limit for one in found.predicted)
    assert found.not_predicted == ()


def test_a_budget_on_a_measured_cost_holds_for_what_was_measured(tmp_path: Path) -> None:
    text = TEXT.replace('minimize("macs")]', 'minimize("macs"), minimize("latency_ms")]')
    desk = Desk(tmp_path, text)
    for number, one in enumerate(desk.some(6)):
        cost = Cost({**desk.costs.of(one).numbers, "latency_ms": 1.0 + number})
        desk.storage.write_outcome(
            Evaluation(one, desk.space.recipe.id, 0, {"val_accuracy": 0.8}, cost, 0, 0.0)
        )
    found = desk.answer("latency_ms <= 3")
    assert found.evaluated
    assert all(member.evaluation.value("latency_ms") <= 3 for member in found.evaluated)
    assert found.predicted and found.not_predicted == ("latency_ms",)


@pytest.mark.parametrize("library", [True, False])
def test_the_answer_is_the_best_of_all_under_the_budget(tmp_path: Path, library: bool) -> None:
    desk = Desk(tmp_path, library=library)
    desk.evaluate_some()
    stored = [k for one in desk.some(20) for k in desk.keys.of_blocks(one) if k is not None]
    desk.put(stored)
    macs, _ = medians(desk)
    found = desk.answer(f"macs <= {macs}")

    errors = {key.choice: desk.error(key.choice) for key in stored} if library else {}
    if errors:
        errors |= {c: 0.0 for one in desk.every for c in one.choices if c.block == "keep"}
    capable = capacities(desk.space, CostTable(desk.space))
    estimate = AdditiveEstimate(len(desk.space.guide), errors, spread=0.05, capacities=capable)
    for outcome in desk.storage.outcomes():  # in the order in which they are read
        estimate.update(outcome.architecture, desk.told[outcome.architecture])

    under = desk.under(f"macs <= {macs}")
    new = [one for one in under if one not in desk.told]
    assert len(under) > len(new) > 10

    def score(one: Architecture) -> float:
        return float(estimate.weights(list(one.choices)).sum())

    assert found.epsilon == 0 and found.metric == "val_accuracy"
    scores = sorted((score(one) for one in new), reverse=True)
    assert [score(one.architecture) for one in found.predicted] == pytest.approx(scores[:3])
    assert {one.architecture for one in found.predicted} <= set(new)
    means, deviations = estimate.predict([one.architecture for one in found.predicted])
    assert [one.quality for one in found.predicted] == pytest.approx(means.tolist())
    assert [one.deviation for one in found.predicted] == pytest.approx(deviations.tolist())
    assert list(means) == sorted(means, reverse=True)
    ids = {key.id for key in stored} if library else set[str]()
    for one in found.predicted:
        keys = [key for key in desk.keys.of_blocks(one.architecture) if key is not None]
        assert one.stored == sum(key.id in ids for key in keys)
        assert one.lacking == len(keys) - one.stored
        assert one.costs == desk.costs.of(one.architecture).known()
    # What was evaluated: the best under the budget is the front's end, nothing over it is there.
    told = [one for one in under if one in desk.told]
    evaluated = [member.evaluation.architecture for member in found.evaluated]
    assert set(evaluated) <= set(told)
    assert max(desk.told[one] for one in told) == max(desk.told[one] for one in evaluated)


def test_predictions_differ_as_asked_and_keep_several_limits(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.evaluate_some()
    macs, params = medians(desk)
    budget = (f"macs <= {macs}", f"params >= {params // 2}")
    found = [one.architecture for one in desk.answer(*budget, count=4, distance=2).predicted]
    assert len(found) == 4 and set(found) <= set(desk.under(*budget)) - desk.told.keys()
    for i, one in enumerate(found):
        for other in found[:i]:
            far = [choice for choice in one.choices if choice not in other.choices]
            assert sum(len(choice.span) for choice in far) >= 2


def test_what_is_minimised_is_predicted_in_its_own_unit(tmp_path: Path) -> None:
    desk = Desk(tmp_path, PERPLEXITY)
    for architecture in desk.some(12):
        desk.evaluate(architecture, 20 * float(np.exp(4 * loss(architecture))))
    macs, _ = medians(desk)
    found = desk.answer(f"macs <= {macs}", count=4)
    values = [one.quality for one in found.predicted]
    assert found.metric == "val_perplexity" and values == sorted(values)
    assert all(0.5 * min(desk.told.values()) < value < max(desk.told.values()) for value in values)
    assert all(0 < one.deviation < one.quality for one in found.predicted)
    assert found.rows()[0]["predicted_val_perplexity"] == values[0]


def test_failed_architectures_and_blocks_that_cannot_be_converted_are_passed_over(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    desk.evaluate_some()
    macs, _ = medians(desk)
    budget = f"macs <= {macs}"
    first = first_new(desk.answer(budget))
    desk.storage.write_outcome(
        Failure(first, desk.space.recipe.id, 0, "finetune", "the loss is not finite")
    )
    second = first_new(desk.answer(budget))
    assert second != first
    key = next(key for key in desk.keys.of_blocks(second) if key is not None)
    desk.storage.write_block(BlockOutcome(key.id, str(key), failure="diverged"))
    left = [one.architecture for one in desk.answer(budget, count=3).predicted]
    assert len(left) == 3 and not any(key.choice in one.choices for one in left)
    desk.put([key])  # converted after all, by another search
    every = [one.architecture for one in desk.answer(budget, count=3).predicted]
    assert every != left


def test_what_a_rung_stopped_is_passed_over_and_only_teaches(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.evaluate_some()
    before = desk.answer("macs <= 1e9")
    one, cost = first_new(before), desk.costs.of(first_new(before))
    metrics = {"val_accuracy": 0.2}
    begun = Evaluation(
        one, desk.space.recipe.id, 0, metrics, cost, 0, 0.0, (CurvePoint("val_accuracy", 0, 0.2),)
    )
    desk.storage.write_outcome(Stopped("converted", begun, {"val_accuracy": 0.99}))
    after = desk.answer("macs <= 1e9")
    assert one not in {each.architecture for each in after.predicted}
    assert after.evaluated == before.evaluated
    assert max(each.quality for each in after.predicted) < 0.99


def first_new(found: Answer) -> Architecture:
    one: Prediction = found.predicted[0]
    return one.architecture


def test_results_of_another_seed_teach_nothing(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.evaluate_some()
    before = desk.answer("macs <= 1e9").rows()
    known = first_new(desk.answer("macs <= 1e9"))
    cost = desk.costs.of(known)
    desk.storage.write_outcome(
        Evaluation(known, desk.space.recipe.id, 1, {"val_accuracy": 0.1}, cost, 0, 0.0)
    )
    assert desk.answer("macs <= 1e9").rows() == before


def test_where_all_is_evaluated_nothing_is_predicted(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    for architecture in desk.under("macs <= 1e9"):
        desk.evaluate(architecture, 0.9 - loss(architecture))
    found = desk.answer("macs <= 1e9")
    assert found.predicted == () and found.rows() == [] and found.evaluated


def test_rows_are_plain_json(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.evaluate_some()
    found = desk.answer("macs <= 1e9")
    again = json.loads(json.dumps(found.rows()))
    assert Architecture.from_json(again[0]["choices"]) == first_new(found)
    assert again[0]["architecture"] == first_new(found).id


def test_a_budget_that_nothing_keeps_is_refused_with_the_closest(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    desk.evaluate_some()
    macs = min(desk.costs.of(one).macs or 0 for one in desk.every)
    with pytest.raises(LimitError) as caught:
        desk.answer(f"macs <= {macs - 1}")
    assert (caught.value.limit, caught.value.closest) == (f"macs <= {macs - 1:g}", macs)
    least = [one for one in desk.every if desk.costs.of(one).macs == macs]
    assert any(f"{one.blocks} for parts {one.pairing}" in str(caught.value) for one in least)
    with pytest.raises(LimitError, match="keeps macs <= 1: "):
        desk.answer("macs <= 1 and params <= 1e9")


def test_without_evaluations_the_scores_of_all_blocks_answer(tmp_path: Path) -> None:
    desk = Desk(tmp_path)
    keys = {key.id: key for one in desk.every for key in desk.keys.of_blocks(one) if key}
    *most, last = keys.values()
    desk.put(most)
    macs, _ = medians(desk)
    with pytest.raises(StorageError, match="no finished evaluation, and 1 of its blocks are not"):
        desk.answer(f"macs <= {macs}")
    desk.put([last])
    found = desk.answer(f"macs <= {macs}", count=4)

    def summed(one: Architecture) -> float:
        return sum(desk.error(c) for c in one.choices if c.block != "keep")

    ranked = sorted(summed(one) for one in desk.under(f"macs <= {macs}"))
    assert (found.prior, found.epsilon, found.evaluated) == ("residual", 0.0, ())
    assert [one.quality for one in found.predicted] == pytest.approx(ranked[:4])
    assert [summed(one.architecture) for one in found.predicted] == pytest.approx(ranked[:4])
    row = found.rows()[0]
    assert row["summed_residual"] == found.predicted[0].quality
    assert not any(name.startswith(("predicted", "deviation")) for name in row)
    table = predicted_table(found, "predicted", 200)
    assert "summed_residual" in [column.header for column in table.columns]

    desk.storage.write_block(BlockOutcome(last.id, str(last), failure="diverged"))
    assert desk.answer(f"macs <= {macs}").prior == "residual"  # it is in the library after all
    desk.evaluate_some(1)
    assert desk.answer(f"macs <= {macs}").prior is None


def test_a_block_that_cannot_be_converted_does_not_keep_the_others_from_answering(
    tmp_path: Path,
) -> None:
    desk = Desk(tmp_path)
    keys = {key.id: key for one in desk.every for key in desk.keys.of_blocks(one) if key}
    *most, last = keys.values()
    desk.put(most)
    desk.storage.write_block(BlockOutcome(last.id, str(last), failure="diverged"))
    found = desk.answer("macs <= 1e9", count=20)
    assert found.prior == "residual" and len(found.predicted) == 20
    assert all(last.choice not in one.architecture.choices for one in found.predicted)


def test_what_cannot_be_answered_is_told(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no search 'absent'"):
        answer(SearchFolder(tmp_path, "absent"), [], trust_code=True)
    desk = Desk(tmp_path)
    with pytest.raises(StorageError, match="no finished evaluation"):
        desk.answer("macs <= 1e9")
    desk.evaluate_some(1)
    with pytest.raises(StorageError, match="--trust-code"):
        answer(desk.storage, [])
    with pytest.raises(LibraryError, match="no library at"):
        answer(desk.storage, [], library=str(tmp_path / "elsewhere"), trust_code=True)
    assert not (tmp_path / "elsewhere").exists()
    assert desk.answer("macs <= 1e9", count=1).predicted

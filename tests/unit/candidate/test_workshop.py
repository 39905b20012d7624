"""One candidate: bit-equal whatever ran before, honest MACs, controls."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut, maximize, minimize
from nas_theseus.blocks import Basic, Keep, Linear
from nas_theseus.candidate import workshop as workshop_module
from nas_theseus.candidate.candidate import Converted
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.finetune import train
from nas_theseus.costs import count_macs, count_params, measure_peak_memory
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ConversionError
from nas_theseus.library.store import BLOCKS, Library
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import digits
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Progress, Reached
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import BlockOutcome


def make_space(recipe: Recipe) -> SearchSpace:
    torch.manual_seed(0)

    def conv(inlet: int, outlet: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())

    # Dropout draws from torch's global generator, which other candidates have used.
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(6, 10))
    net = nn.Sequential(conv(1, 6), conv(6, 6), head)
    return SearchSpace(
        guide=cut(net, ["0", "1"], (1, 8, 8)), task=digits(),
        blocks=[Keep(), Basic(width=0.5), Linear()], recipe=recipe,
    )  # fmt: skip


RECIPE = Recipe(epochs=1, align_steps=3, align_examples=256, align_batch_size=64, batch_size=64)


def architecture(*blocks: str) -> Architecture:
    values = {"basic": (("width", 0.5),)}
    return Architecture(
        tuple(BlockChoice(Span(i, i + 1), b, values.get(b, ())) for i, b in enumerate(blocks))
    )


def run(
    workshop: Workshop,
    chosen: Architecture,
    recipe: Recipe | None = None,
    library: Library | None = None,
    made: list[BlockOutcome] | None = None,
) -> Converted:
    """Takes note of the blocks that were converted on the way in `made`."""
    events = list(workshop.convert(chosen, 0, recipe, library=library))
    if made is not None:
        made += [e.block for e in events if isinstance(e, Progress) and e.block is not None]
    return result_of(iter(events))


def test_a_used_workshop_gives_bit_equal_results() -> None:
    first = Workshop(make_space(RECIPE), torch.device("cpu"))
    run(first, architecture("linear", "keep", "keep"))
    torch.manual_seed(99)
    second = Workshop(make_space(RECIPE), torch.device("cpu"))
    chosen = architecture("keep", "basic", "keep")
    used, fresh = run(first, chosen), run(second, chosen)
    assert used.evaluation.values() == fresh.evaluation.values()
    assert used.evaluation.curve == fresh.evaluation.curve
    pairs = zip(
        used.network.state_dict().values(), fresh.network.state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_the_guide_as_architecture_is_the_guide_untrained() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    found = run(workshop, architecture("keep", "keep", "keep"))
    assert found.evaluation.train_macs_spent == 0
    inputs = workshop.space.task.sample(8)
    with torch.no_grad():
        assert torch.equal(found.network(inputs), workshop.space.guide.eval()(inputs))


def test_costs_are_those_of_the_whole_network_counted_at_once() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    found = run(workshop, architecture("keep", "basic", "keep"))
    inlet = workshop.space.guide.boundaries[0]
    assert found.evaluation.cost.macs == count_macs(found.network, inlet)
    assert found.evaluation.cost.params == count_params(found.network)
    table = CostTable(workshop.space)
    assert table.range("macs")[0] <= found.evaluation.cost.macs <= table.range("macs")[1]


def test_training_macs_in_closed_form() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    chosen = architecture("keep", "basic", "keep")
    found = run(workshop, chosen).evaluation
    block = workshop.costs.of_choice(chosen.choices[1]).macs
    whole = workshop.costs.of(chosen).macs
    statistics_and_stitch = 2 * 256 * block
    start_and_end = 2 * statistics_and_stitch
    align = 3 * 64 * 3 * block + start_and_end
    seen = workshop.space.task.size("train") // 64 * 64
    # Statistics of batch norms, and the losses with the old ones and the new.
    assert found.train_macs_spent == align + 3 * 256 * whole + 3 * seen * whole


def test_settling_trains_the_whole_network_before_it_is_first_measured() -> None:
    plain = RECIPE.model_copy(update={"epochs": 0.0})
    recipe = plain.model_copy(update={"settle_epochs": 0.5, "settle_batch_size": 32})
    chosen = architecture("keep", "basic", "keep")
    workshop = Workshop(make_space(recipe), torch.device("cpu"))
    before, after = run(workshop, chosen, plain), run(workshop, chosen, recipe)
    seed = derive_seed("settle", derive_seed(chosen.id, 0))
    (epoch,) = train(
        before.network, workshop.space.task, recipe.settling, seed, workshop.activations
    )
    settled = before.network.eval().state_dict()
    assert all(torch.equal(settled[n], t) for n, t in after.network.state_dict().items())
    assert epoch.examples == workshop.space.task.size("train") // 32 // 2 * 32
    (first,) = (p for p in after.evaluation.curve if p.metric == "val_accuracy")
    assert first.step == 0 and first.value == score(
        after.network, workshop.space.task, "validation"
    )
    spent = [one.evaluation.train_macs_spent for one in (before, after)]
    assert spent[1] - spent[0] == 3 * epoch.examples * after.evaluation.cost.macs


def test_rungs_tell_what_a_candidate_is_there_and_change_nothing() -> None:
    recipe = RECIPE.model_copy(update={"epochs": 4.0})
    space = replace(make_space(recipe), constraints=("latency_ms <= 1e6",))
    workshop = Workshop(space, torch.device("cpu"))
    events = list(workshop.convert(architecture("keep", "basic", "keep"), 0))
    reached = [event for event in events if isinstance(event, Reached)]
    last = result_of(iter(events)).evaluation
    assert [one.rung for one in reached] == ["converted", "epoch_1", "epoch_2"]
    spent = [one.evaluation.train_macs_spent for one in reached]
    each = 3 * 64 * (space.task.size("train") // 64) * last.cost.macs
    assert [last.train_macs_spent - one for one in spent] == [4 * each, 3 * each, 2 * each]
    for one, epoch in zip(reached, (0, 1, 2), strict=True):
        assert one.evaluation.cost == last.cost  # measured once
        assert one.evaluation.curve == last.curve[: len(one.evaluation.curve)]
        assert one.evaluation.curve[-1].step == epoch
        assert one.evaluation.metrics["val_accuracy"] == one.evaluation.curve[-1].value
    unlimited = Workshop(make_space(recipe), torch.device("cpu"))
    assert run(unlimited, architecture("keep", "basic", "keep")).evaluation.curve == last.curve


def test_naive_and_scratch_align_nothing() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    chosen = architecture("basic", "basic", "keep")
    for schedule in ("naive", "scratch"):
        recipe = Recipe.model_validate(RECIPE.model_dump() | {"schedule": schedule})
        evaluation = run(workshop, chosen, recipe).evaluation
        assert not any(p.metric.startswith("similarity") for p in evaluation.curve)
        assert evaluation.recipe == recipe.id != RECIPE.id


def test_a_diverging_candidate_says_what_to_do() -> None:
    wild = RECIPE.model_copy(update={"learning_rate": 1e30, "schedule": "naive"})
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    with pytest.raises(ConversionError, match="lower learning_rate"):
        run(workshop, architecture("basic", "basic", "keep"), wild)


def test_measured_costs_only_where_an_objective_or_constraint_asks() -> None:
    plain = Workshop(make_space(RECIPE), torch.device("cpu"))
    without = run(plain, architecture("keep", "basic", "keep")).evaluation
    assert without.cost.known().keys() == {"macs", "params"}
    goals = [maximize("val_accuracy"), minimize("latency_ms")]
    space = replace(make_space(RECIPE), objectives=goals, constraints=["peak_memory_bytes <= 1e9"])
    assert mistakes_in(space) == []
    assert minimize("latency_ms").log
    found = run(Workshop(space, torch.device("cpu")), architecture("keep", "basic", "keep"))
    values = found.evaluation.values()
    assert 0 < values["latency_ms_p10"] <= values["latency_ms"] <= values["latency_ms_p90"]
    inlet = space.guide.boundaries[0]
    expected = measure_peak_memory(found.network, inlet, device="cpu")
    assert found.evaluation.cost["peak_memory_bytes"] == expected
    assert space.limits[0].violation(values) == 0
    assert without.metrics == {"val_accuracy": without.metrics["val_accuracy"]}


LIBRARY = RECIPE.model_copy(update={"library": True})
TWO = architecture("basic", "linear", "keep")


def same(first: Converted, second: Converted) -> bool:
    """Equal bit by bit but for the time it took."""
    states = first.network.state_dict(), second.network.state_dict()
    weights = all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    here, there = (replace(found.evaluation, seconds=0.0) for found in (first, second))
    return weights and here == there


@pytest.mark.parametrize("polish", [0, 2])
def test_a_candidate_of_library_blocks_is_the_same_whichever_were_there(
    polish: int, tmp_path: Path
) -> None:
    recipe = LIBRARY.model_copy(update={"polish_steps": polish})
    workshop = Workshop(make_space(recipe), torch.device("cpu"))
    made: list[BlockOutcome] = []
    library = Library(tmp_path / "one")
    first = run(workshop, TWO, None, library, made)
    kept = {record.key.id: record.facts.macs for record in library.entries()}
    assert {outcome.block: outcome.macs for outcome in made} == kept and len(kept) == 2
    made.clear()
    assert same(first, run(workshop, TWO, None, library, made)) and made == []

    # One block made by another candidate, one damaged, in a workshop of its own.
    other = Library(tmp_path / "two")
    fresh = Workshop(make_space(recipe), torch.device("cpu"))
    run(fresh, architecture("keep", "linear", "keep"), None, other)
    (weights,) = (tmp_path / "two" / BLOCKS).glob("*.safetensors")
    weights.write_bytes(weights.read_bytes()[:-4] + b"none")
    torch.manual_seed(5)
    assert same(first, run(fresh, TWO, None, other, made)) and len(made) == 2
    assert other.verify().sound == 2


def test_without_a_polish_library_blocks_are_those_of_the_library(tmp_path: Path) -> None:
    recipe = LIBRARY.model_copy(update={"epochs": 0.0, "recalibrate": False})
    workshop = Workshop(make_space(recipe), torch.device("cpu"))
    library = Library(tmp_path)
    found = run(workshop, TWO, None, library)
    for record in library.entries():
        entry = library.get(record.key)
        block = found.network.blocks[record.key.span.start].state_dict()
        assert entry is not None and entry.state.keys() == block.keys()
        assert all(torch.equal(entry.state[name], block[name]) for name in block)
        told = found.evaluation.similarities[record.key.span.start]
        assert told == {0: record.facts.similarity}
        facts, position = record.facts, record.key.span.start
        points = {p.metric: p.value for p in found.evaluation.curve}
        assert points[f"stitch_residual/{position}"] == facts.residual
        assert points[f"divergence/{position}"] == facts.divergence
        assert points.get(f"contribution_error/{position}") == facts.contribution_error
    assert found.evaluation.train_macs_spent == 0  # the blocks' own records have theirs


def test_divergence_is_measured_if_the_recipe_and_the_task_have_it(tmp_path: Path) -> None:
    space = make_space(LIBRARY)
    replacing = Workshop(space, torch.device("cpu")).replacing
    assert replacing is not None and replacing.count == 128
    off = make_space(LIBRARY.model_copy(update={"divergence_examples": 0}))
    assert Workshop(off, torch.device("cpu")).replacing is None
    found = run(Workshop(off, torch.device("cpu")), TWO, None, Library(tmp_path))
    assert not any(p.metric.startswith("divergence/") for p in found.evaluation.curve)
    assert all(record.facts.divergence is None for record in Library(tmp_path).entries())

    class Plain(type(space.task)):  # type: ignore[misc]
        distillation = None

    task = object.__new__(Plain)
    vars(task).update(vars(space.task))
    assert Workshop(replace(space, task=task), torch.device("cpu")).replacing is None


def test_a_polish_is_the_schedule_with_its_own_steps(tmp_path: Path) -> None:
    recipe = LIBRARY.model_copy(update={"polish_steps": 2, "schedule": "sequential"})
    workshop = Workshop(make_space(recipe), torch.device("cpu"))
    found = run(workshop, TWO, None, Library(tmp_path)).evaluation
    steps = [(p.step, p.value) for p in found.curve if p.metric == "align_steps"]
    assert steps == [(0, 2), (1, 2)]
    plain = run(workshop, TWO, recipe.model_copy(update={"polish_steps": 0}), Library(tmp_path))
    assert found.train_macs_spent > plain.evaluation.train_macs_spent
    assert found.recipe != plain.evaluation.recipe


def test_controls_take_nothing_from_a_library(tmp_path: Path) -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    for schedule in ("naive", "scratch", "kd"):
        alone = RECIPE.model_copy(update={"schedule": schedule})
        with_library = alone.model_copy(update={"library": True})
        found = run(workshop, TWO, with_library, Library(tmp_path)).evaluation
        assert found.values() == run(workshop, TWO, alone).evaluation.values()
    assert list(Library(tmp_path).entries()) == []


def test_a_recipe_that_takes_blocks_needs_a_library() -> None:
    workshop = Workshop(make_space(LIBRARY), torch.device("cpu"))
    with pytest.raises(ConversionError, match="takes blocks from the library, but there is none"):
        run(workshop, TWO)


def test_activations_in_bfloat16_convert_alike_and_their_blocks_have_other_keys(
    tmp_path: Path,
) -> None:
    coarse = LIBRARY.model_copy(update={"activations_dtype": "bfloat16"})
    found = {}
    for recipe in (LIBRARY, coarse):
        workshop = Workshop(make_space(recipe), torch.device("cpu"), tmp_path / "work")
        found[recipe.id] = run(workshop, TWO, None, Library(tmp_path / "library")).evaluation
    assert len(list(Library(tmp_path / "library").entries())) == 4
    exact, rounded = (evaluation.curve for evaluation in found.values())
    residuals = [
        [p.value for p in curve if p.metric.startswith("stitch_residual")]
        for curve in (exact, rounded)
    ]
    assert residuals[0] != residuals[1]
    assert residuals[1] == pytest.approx(residuals[0], rel=0.25)
    assert len(list((tmp_path / "work").glob("*-bfloat16.npy"))) == 2  # none of the kept head's


def test_a_workshop_refuses_activations_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    coarse = RECIPE.model_copy(update={"activations_dtype": "bfloat16"})
    monkeypatch.setattr(workshop_module, "free_memory_bytes", lambda _: 100_000)
    Workshop(make_space(RECIPE), torch.device("cpu"))
    with pytest.raises(ConversionError, match="256 examples at 2 boundaries .* set align_examples"):
        Workshop(make_space(coarse), torch.device("cpu"))

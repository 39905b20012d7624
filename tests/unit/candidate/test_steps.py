"""Which steps a recipe means, and what their events add up to."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Basic, Keep
from nas_theseus.candidate.candidate import Converted
from nas_theseus.candidate.steps import Assemble, Finetune, TakeBlocks, steps_of
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.errors import ConversionError
from nas_theseus.library.store import Library
from nas_theseus.tasks import digits
from nas_theseus.transforms import Wider
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Progress, Reached

RECIPE = Recipe(epochs=1, align_steps=2, align_examples=128, align_batch_size=64, batch_size=256)


def conv(inlet: int, outlet: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())


@pytest.fixture(scope="module")
def workshop() -> Workshop:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), conv(4, 4), head)
    space = SearchSpace(
        guide=cut(net, ["0", "1"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Basic(width=0.5), Wider()],
        recipe=RECIPE,
    )
    return Workshop(space, torch.device("cpu"))


def chain(*blocks: str) -> Architecture:
    values = {"basic": (("width", 0.5),), "wider": (("layers", 1),)}
    return Architecture(
        tuple(BlockChoice(Span(i, i + 1), b, values.get(b, ())) for i, b in enumerate(blocks))
    )


NEW = chain("keep", "basic", "keep")


def recipe(**changes: object) -> Recipe:
    return Recipe.model_validate(RECIPE.model_dump() | changes)


@pytest.mark.parametrize(
    ("changes", "score_hybrids", "between"),
    [
        ({}, False, "align, recalibrate, finetune"),
        ({"settle_epochs": 0.5}, False, "align, recalibrate, settle, finetune"),
        ({"settle_steps": 2}, False, "align, recalibrate, settle, finetune"),
        ({"recalibrate": False}, False, "align, finetune"),
        ({"library": True}, False, "take blocks, recalibrate, finetune"),
        ({"library": True, "polish_steps": 3}, False, "take blocks, align, recalibrate, finetune"),
        ({"library": True, "hybrid_epochs": 1}, False, "take blocks, align, recalibrate, finetune"),
        ({"library": True}, True, "take blocks, align, recalibrate, finetune"),
        ({"library": True, "schedule": "naive"}, False, "align, recalibrate, finetune"),
        ({"library": True, "schedule": "scratch"}, False, "align, finetune"),
    ],
)
def test_the_steps_of_a_recipe(
    changes: dict[str, object],
    score_hybrids: bool,
    between: str,
    workshop: Workshop,
    tmp_path: Path,
) -> None:
    candidate = workshop.candidate(NEW, 0, recipe(**changes))
    keys = workshop.keys(candidate.recipe)
    steps = steps_of(candidate, Library(tmp_path), keys, score_hybrids=score_hybrids)
    assert ", ".join(step.name for step in steps) == f"assemble, {between}, measure"
    assert all(step.final == ("align" not in between) for step in steps
               if isinstance(step, TakeBlocks))  # fmt: skip


def test_the_guide_itself_is_only_measured_and_what_grew_from_it_keeps_its_statistics(
    workshop: Workshop,
) -> None:
    kept = workshop.candidate(chain("keep", "keep", "keep"), 0)
    assert [step.name for step in steps_of(kept)] == ["assemble", "measure"]
    fresh = workshop.candidate(chain("keep", "keep", "keep"), 0, recipe(schedule="scratch"))
    assert "finetune" in [step.name for step in steps_of(fresh)]
    grown = workshop.candidate(chain("keep", "wider", "keep"), 0)
    assert "recalibrate" not in [step.name for step in steps_of(grown)]


def test_a_recipe_that_takes_blocks_needs_a_library(workshop: Workshop) -> None:
    candidate = workshop.candidate(NEW, 0, recipe(library=True))
    with pytest.raises(ConversionError, match="takes blocks from the library, but there is none"):
        steps_of(candidate)


def test_events_name_their_step_and_their_multiply_adds_are_what_was_spent(
    workshop: Workshop, tmp_path: Path
) -> None:
    chosen = recipe(library=True, polish_steps=2, hybrid_epochs=0.5, settle_epochs=0.5, epochs=2)
    *events, last = workshop.convert(NEW, 0, chosen, library=Library(tmp_path), score_hybrids=True)
    assert isinstance(last, Converted)
    told = [event for event in events if isinstance(event, Progress)]
    assert [step for step, _ in groupby(event.step for event in told)] == [
        "assemble", "take blocks", "align", "recalibrate", "settle", "finetune", "measure",
    ]  # fmt: skip
    spent = {step: sum(e.macs for e in told if e.step == step) for step in
             ("assemble", "take blocks", "align", "recalibrate", "settle", "finetune", "measure")
             }  # fmt: skip
    assert sum(spent.values()) == last.evaluation.train_macs_spent
    assert {step for step, macs in spent.items() if macs == 0} == {
        "assemble", "take blocks", "measure",
    }  # fmt: skip
    assert tuple(p for event in told for p in event.points) == last.evaluation.curve
    assert [event.rung for event in events if isinstance(event, Reached)] == [
        "converted", "epoch_1",
    ]  # fmt: skip
    (made,) = (event.block for event in told if event.block is not None)
    assert made.macs > 0  # the library's to count


def test_a_budget_in_steps_is_scored_and_has_rungs_by_its_steps(workshop: Workshop) -> None:
    chosen = recipe(steps=16, settle_steps=2, batch_size=32, hybrid_epochs=0.1)
    *events, last = workshop.convert(NEW, 0, chosen)
    assert isinstance(last, Converted)
    curve = last.evaluation.curve
    assert [p.step for p in curve if p.metric == "val_accuracy"] == list(range(0, 17, 2))
    assert [p.step for p in curve if p.metric == "train_loss"] == list(range(2, 17, 2))
    assert [e.rung for e in events if isinstance(e, Reached)] == ["converted", "step_4", "step_8"]
    whole = last.evaluation.cost.macs
    spent = {step: sum(e.macs for e in events if isinstance(e, Progress) and e.step == step)
             for step in ("settle", "finetune")}  # fmt: skip
    assert spent == {"settle": 3 * 2 * 16 * whole, "finetune": 3 * 16 * 32 * whole}


def trained(workshop: Workshop, chosen: Architecture, **changes: object) -> set[str]:
    """The blocks and parts whose weights change in task training."""
    candidate = workshop.candidate(chosen, 0, recipe(steps=2, batch_size=32, **changes))
    list(Assemble().run(candidate))
    before = {n: p.clone() for n, p in candidate.target.named_parameters()}
    list(Finetune().run(candidate))
    return {
        name.split(".")[1]
        for name, parameter in candidate.target.named_parameters()
        if not torch.equal(parameter, before[name])
    }


@pytest.mark.parametrize(
    ("frozen", "blocks", "left"),
    [
        (False, NEW, "012"),
        (True, NEW, "1"),
        ("0", NEW, "12"),
        (["0", "h*"], NEW, "1"),
        ("1", NEW, "012"),  # it is not kept here
        (True, chain("keep", "wider", "keep"), "1"),  # made of the guide's part, so new
    ],
)
def test_frozen_kept_parts_do_not_train(
    frozen: object, blocks: Architecture, left: str, workshop: Workshop
) -> None:
    assert workshop.space.guide.names == ("0", "1", "head")
    assert trained(workshop, blocks, freeze_kept=frozen) == set(left)


def test_without_anything_from_the_guide_no_part_counts_as_kept(workshop: Workshop) -> None:
    assert trained(workshop, NEW, freeze_kept=True, schedule="scratch") == set("012")
    candidate = workshop.candidate(NEW, 0, recipe(kept_learning_rate=0.1, schedule="kd"))
    list(Assemble().run(candidate))
    assert candidate.kept == () and candidate.kept_parameters == []


def test_weights_that_kept_and_new_blocks_share_are_new(workshop: Workshop) -> None:
    candidate = workshop.candidate(NEW, 0, recipe(freeze_kept="0"))
    list(Assemble().run(candidate))
    first, new, head = candidate.target.blocks
    assert candidate.kept == (0, 2) and candidate.frozen == (0,)
    own = [*first.parameters(), *head.parameters()]
    assert {id(p) for p in candidate.kept_parameters} == {id(p) for p in own}
    shared = next(first.parameters())
    new.register_parameter("tied", shared)
    assert {id(p) for p in candidate.kept_parameters} == {id(p) for p in own} - {id(shared)}
    candidate.thaw()
    assert shared.requires_grad and not any(p.requires_grad for p in list(first.parameters())[1:])


def test_multiply_adds_of_frozen_and_of_checkpointed_training(workshop: Workshop) -> None:
    epoch = EpochLoss(0, 1.0, examples=10)
    macs = {}
    for frozen in (False, True):
        for again in (False, True):
            chosen = recipe(freeze_kept=frozen, checkpointing=again)
            candidate = workshop.candidate(NEW, 0, chosen)
            macs[frozen, again] = candidate.training_macs(epoch)
    first, own, head = candidate.block_macs
    assert macs == {
        (False, False): 30 * (first + own + head),
        (False, True): 40 * (first + own + head),
        (True, False): 10 * (first + 3 * own + 2 * head),
        (True, True): 10 * (first + 4 * own + 3 * head),
    }


def test_hidden_states_are_charged_for_every_batch(workshop: Workshop) -> None:
    chosen = recipe(steps=8, batch_size=32, hidden=1.0, schedule="naive", recalibrate=False)
    *_, last = workshop.convert(NEW, 0, chosen)
    assert isinstance(last, Converted)
    each = 3 * last.evaluation.cost.macs + sum(workshop.costs.part_macs)
    assert last.evaluation.train_macs_spent == 8 * 32 * each


def test_a_step_that_fails_was_named_before(workshop: Workshop) -> None:
    wild = recipe(align_learning_rate=1e30, align_steps=30)
    steps = []
    with pytest.raises(ConversionError, match="lower align_learning_rate"):
        for event in workshop.convert(NEW, 0, wild):
            assert isinstance(event, Progress)
            steps.append(event.step)
    assert steps[-1] == "align"


def test_a_guide_that_runs_for_every_batch_is_counted(workshop: Workshop) -> None:
    candidate = workshop.candidate(NEW, 0)
    whole, guide = sum(candidate.block_macs), sum(workshop.costs.part_macs)
    epoch = EpochLoss(0, 1.0, examples=10, taught=4)
    assert candidate.training_macs(epoch) == 3 * 10 * whole + 4 * guide
    first, own, head = candidate.block_macs
    hybrid = 10 * (first + 3 * own + 2 * head) + 4 * guide
    assert candidate.training_macs(epoch, replaced=(1,)) == hybrid


def test_batches_that_were_computed_in_pieces_are_noted(workshop: Workshop) -> None:
    candidate = workshop.candidate(NEW, 0, recipe(epochs=0))
    for step in (Assemble(), Finetune()):
        for event in step.run(candidate):
            assert isinstance(event, Progress)
            candidate.take(event)
    candidate.pieces = 4
    assert candidate.evaluation().notes == ("out of memory: batches were computed in 4 pieces",)


def test_a_conversion_without_an_end_is_refused() -> None:
    with pytest.raises(ConversionError, match="ended without a result"):
        result_of([Progress("assemble")])

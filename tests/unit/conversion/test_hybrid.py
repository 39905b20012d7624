"""Half-converted networks: what trains, what never does, and free boundary widths."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Basic, Identity, Keep, Pointwise, Pool
from nas_theseus.candidate.candidate import Converted
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.alignment import Plateau
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.hybrid import Hybrid
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.stage import stages
from nas_theseus.conversion.target import assemble
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.recipe import Order
from tests.unit.conversion.aligned import align_points


def conv(inlet: int, outlet: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def make_space(recipe: Recipe | None = None) -> SearchSpace:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    net = nn.Sequential(conv(1, 6), conv(6, 6), conv(6, 8, 2), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Basic(width=0.5), Pointwise(), Pool()],
        widths=(0.5, 2.0, 1.0),
        recipe=recipe or Recipe(),
    )


RECIPE = Recipe(
    epochs=0, align_steps=4, align_examples=256, align_batch_size=64, batch_size=64,
    hybrid_epochs=0.25, schedule="progressive",
)  # fmt: skip
SPACE = make_space(RECIPE)


def architecture(*shares: float) -> Architecture:
    basic, pointwise = (("width", 0.5),), (("expand", 1.0),)
    return Architecture(
        (
            BlockChoice(Span(0, 1), "basic", basic, shares[0]),
            BlockChoice(Span(1, 2), "pointwise", pointwise, shares[1]),
            BlockChoice(Span(2, 3), "basic", basic),
            BlockChoice(Span(3, 4), "keep"),
        )
    )


def activations(space: SearchSpace = SPACE) -> GuideActivations:
    return GuideActivations(space.guide, space.task.sample(256), torch.device("cpu"))


def finish(workshop: Workshop, chosen: Architecture, recipe: Recipe, **options: bool) -> Converted:
    return result_of(workshop.convert(chosen, 0, recipe, **options))


def test_a_hybrid_with_nothing_replaced_is_the_guide_and_with_everything_the_target() -> None:
    target = assemble(SPACE, architecture(0.5, 2.0), 0)
    cache, inputs = activations(), SPACE.task.sample(8)
    with torch.no_grad():
        assert torch.equal(Hybrid(target, cache, ()).eval()(inputs), SPACE.guide.eval()(inputs))
        whole = Hybrid(target, cache, (0, 1, 2)).eval()(inputs)
        assert torch.allclose(whole, target.eval()(inputs), atol=1e-6)


def test_only_the_replaced_blocks_train() -> None:
    target = assemble(SPACE, architecture(0.5, 1.0), 0)
    hybrid = Hybrid(target, activations(), (1,))
    before = copy.deepcopy(target.state_dict())
    guide = SPACE.guide.content_hash()
    recipe = RECIPE.model_copy(update={"epochs": 0.25})
    (epoch,) = train(hybrid, SPACE.task, recipe, 0)
    assert 0 < epoch.examples < SPACE.task.size("train")
    assert SPACE.guide.content_hash() == guide
    moved = {n for n, t in target.state_dict().items() if not torch.equal(t, before[n])}
    assert moved and all(name.startswith("blocks.1.") for name in moved)


@pytest.mark.parametrize("schedule", ["progressive", "sequential", "independent", "joint"])
@pytest.mark.parametrize("order", get_args(Order))
@pytest.mark.parametrize("measure", ["cka", "regression"])
def test_free_widths_with_every_schedule_and_order(
    schedule: str, order: Order, measure: str
) -> None:
    """Blocks made apart fit together: the converted net predicts the guide's last boundary."""
    recipe = Recipe(
        schedule=schedule, order=order, similarity=measure, align_steps=40, align_batch_size=64
    )
    chosen = architecture(0.5, 2.0)
    assert SPACE.refusal(chosen) is None
    target, cache = assemble(SPACE, chosen, 0), activations()
    generator = torch.Generator().manual_seed(0)
    align_points(target, cache, similarity(measure), recipe, generator)
    assert [tuple(b.shape) for b in target.boundaries[1:4]] == [(3, 8, 8), (12, 8, 8), (8, 4, 4)]
    goal = cache.at(3)
    with torch.no_grad():
        found = nn.Sequential(*target.blocks[:3]).eval()(cache.at(0))
    centred = goal - goal.mean((0, 2, 3), keepdim=True)
    unexplained = float((found - goal).square().sum() / centred.square().sum())
    fresh = assemble(SPACE, chosen, 0).eval()
    with torch.no_grad():
        naive = nn.Sequential(*fresh.blocks[:3])(cache.at(0))
    assert unexplained < float((naive - goal).square().sum() / centred.square().sum())
    assert unexplained < 1.0


def test_hybrids_are_scored_after_every_stage_and_charged() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    chosen = architecture(1.0, 1.0)
    plain = RECIPE.model_copy(update={"hybrid_epochs": 0.0})
    without = finish(workshop, chosen, plain).evaluation
    found = finish(workshop, chosen, RECIPE, score_hybrids=True).evaluation
    scores = [p.step for p in found.curve if p.metric == "hybrid/val_accuracy"]
    assert scores == [0, 1, 2]
    assert not any(p.metric.startswith("hybrid") for p in without.curve)
    guide = workshop.costs.part_macs
    blocks = [cost.macs for cost in workshop.costs.of_blocks(chosen)]
    examples = 64 * round(0.25 * (workshop.space.task.size("train") // 64))
    first = 3 * blocks[0] + 2 * sum(guide[1:])
    second = 3 * sum(blocks[:2]) + 2 * sum(guide[2:])
    third = 3 * sum(blocks[:3]) + 2 * guide[3]
    assert found.train_macs_spent - without.train_macs_spent == examples * (first + second + third)


def test_a_hybrid_is_charged_for_what_runs_in_it() -> None:
    """A block without parameters has replaced its part from the first stage on."""
    space = replace(make_space(RECIPE), blocks=[*SPACE.blocks, Identity()])
    workshop = Workshop(space, torch.device("cpu"))
    first, _, third, head = architecture(1.0, 1.0).choices
    chosen = Architecture((first, BlockChoice(Span(1, 2), "identity"), third, head))
    assert space.refusal(chosen) is None
    recipe = RECIPE.model_copy(update={"schedule": "naive"})
    found = finish(workshop, chosen, recipe.model_copy(update={"recalibrate": False})).evaluation
    guide = workshop.costs.part_macs
    blocks = [cost.macs for cost in workshop.costs.of_blocks(chosen)]
    assert blocks[1] < guide[1]
    examples = 64 * round(0.25 * (workshop.space.task.size("train") // 64))
    ahead = 3 * blocks[0] + 2 * (blocks[1] + guide[2] + guide[3])
    whole = 3 * blocks[0] + 2 * blocks[1] + 3 * blocks[2] + 2 * guide[3]
    assert found.train_macs_spent == examples * (ahead + whole)


def test_naive_replacement_is_scored_the_same_way() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    for order, first in (("forward", 0), ("reverse", 2)):
        recipe = Recipe(schedule="naive", order=order, epochs=0)  # type: ignore[arg-type]
        found = finish(workshop, architecture(1.0, 1.0), recipe, score_hybrids=True).evaluation
        assert [p.step for p in found.curve if p.metric == "hybrid/val_accuracy"] == [0, 1, 2]
        assert stages("naive", recipe.order, (0, 1, 2))[0].replaced == (first,)
        assert not any(p.metric.startswith("similarity") for p in found.curve)


def test_hybrids_can_be_trained_after_others_were_only_scored() -> None:
    """What scoring made first, in inference mode, must serve training too."""
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    chosen = architecture(0.5, 2.0)
    naive = Recipe(schedule="naive", epochs=0, recalibrate=False)
    finish(workshop, chosen, naive, score_hybrids=True)
    used = finish(workshop, chosen, RECIPE).evaluation
    fresh = finish(Workshop(make_space(RECIPE), torch.device("cpu")), chosen, RECIPE).evaluation
    assert used.curve == fresh.curve


def test_kd_is_scratch_with_a_teacher() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    common = {"epochs": 1, "batch_size": 64, "hybrid_epochs": 0}
    chosen = architecture(1.0, 1.0)
    found = {
        name: finish(workshop, chosen, Recipe(schedule=name, **common)).evaluation  # type: ignore[arg-type]
        for name in ("kd", "scratch")
    }
    losses = {n: [p.value for p in e.curve if p.metric == "train_loss"] for n, e in found.items()}
    assert losses["kd"] != losses["scratch"]
    starts = {n: [p.value for p in e.curve if p.step == 0] for n, e in found.items()}
    assert starts["kd"] == starts["scratch"]


def test_a_plateau_ends_a_stage_and_a_falling_loss_does_not() -> None:
    falling = Plateau(0.01, 4)
    assert not any(falling.ended(torch.tensor(0.9**step)) for step in range(40))
    flat = Plateau(0.01, 4)
    assert [flat.ended(torch.tensor(1.0)) for _ in range(8)] == [False] * 7 + [True]
    off = Plateau(0.0, 4)
    assert not any(off.ended(torch.tensor(1.0)) for _ in range(40))


@pytest.mark.parametrize("batches", [1, 2, 3, 5])
def test_a_plateau_compares_whole_passes(batches: int) -> None:
    """Batches of unequal loss, in turn, are no fall and no rise."""
    plateau = Plateau(0.01, batches)
    ended = [plateau.ended(torch.tensor(2.0 ** -(step % batches))) for step in range(24)]
    steps = ended.index(True) + 1
    assert steps % (2 * batches) == 0 and steps >= 8


def test_a_stage_that_stops_early_tells_its_steps_and_is_charged_for_them_only() -> None:
    workshop = Workshop(make_space(RECIPE), torch.device("cpu"))
    recipe = Recipe(
        schedule="joint", align_steps=400, plateau=0.5, align_examples=256, align_batch_size=64,
        epochs=0, recalibrate=False, similarity="cka",
    )  # fmt: skip
    chosen = architecture(1.0, 1.0)
    found = finish(workshop, chosen, recipe).evaluation
    (steps,) = [int(p.value) for p in found.curve if p.metric == "align_steps"]
    assert 8 <= steps < 400
    chain = sum(cost.macs for cost in workshop.costs.of_blocks(chosen)[:3])
    assert found.train_macs_spent == steps * 64 * 3 * chain + 2 * 256 * chain

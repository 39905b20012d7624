"""Stages of each schedule, and what a stage does to a target and to nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Basic, Identity, Keep, Pointwise, TokenMLP
from nas_theseus.blocks.mlp import TokenMixer
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.alignment import Alignment, StageRun, align, fixed_batches
from nas_theseus.conversion.fitting import stitch
from nas_theseus.conversion.similarities.cka import linear_cka
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.stage import Stage, runs_from, stages
from nas_theseus.conversion.target import (
    Target,
    assemble,
    batch_norms,
    gathering_statistics,
    recalibrate,
    recalibrate_if_better,
    reinitialise,
)
from nas_theseus.conversion.training_loss import TrainingLoss
from nas_theseus.errors import ConversionError
from nas_theseus.guide.networks import vision_transformer
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.recipe import Order
from tests.unit.conversion.aligned import align_points, uncounted


def conv(inlet: int, outlet: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def make_space() -> SearchSpace:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    net = nn.Sequential(conv(1, 6), conv(6, 6), conv(6, 8, 2), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Basic(width=0.5), Pointwise(), Identity()],
        max_span=2,
    )


SPACE = make_space()
SAMPLE = SPACE.task.sample(192)
ARCHITECTURE = Architecture(
    (
        BlockChoice(Span(0, 1), "keep"),
        BlockChoice(Span(1, 2), "basic", (("width", 0.5),)),
        BlockChoice(Span(2, 3), "pointwise", (("expand", 1.0),)),
        BlockChoice(Span(3, 4), "keep"),
    )
)


def guide() -> GuideActivations:
    return GuideActivations(SPACE.guide, SAMPLE, torch.device("cpu"))


def run(recipe: Recipe, seed: int = 0) -> tuple[Target, dict[str, list[float]]]:
    target = assemble(SPACE, ARCHITECTURE, seed)
    generator = torch.Generator().manual_seed(seed)
    curves: dict[str, list[float]] = {}
    measure = similarity(recipe.similarity)
    for point in align_points(target, guide(), measure, recipe, generator):
        curves.setdefault(point.metric, []).append(point.value)
    return target, curves


@pytest.mark.parametrize("schedule", ["progressive", "sequential", "independent", "joint"])
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_alignment_helps_and_leaves_guide_and_kept_parts_alone(schedule: str, order: Order) -> None:
    before = SPACE.guide.content_hash()
    short = Recipe(schedule=schedule, order=order, align_steps=1, align_batch_size=64)
    long = short.model_copy(update={"align_steps": 40})
    _, first = run(short)
    target, later = run(long)
    newest = f"similarity/{stages(schedule, order, target.replaced)[0].trained[0]}"
    assert later[newest][0] > first[newest][0]
    assert SPACE.guide.content_hash() == before
    kept = dict(SPACE.guide.parts[0].named_buffers())
    for name, buffer in target.blocks[0].named_buffers():
        assert torch.equal(buffer, kept[name])
    assert target.blocks[0] is not SPACE.guide.parts[0]


@pytest.mark.parametrize("schedule", ["progressive", "sequential", "independent"])
def test_earlier_blocks_move_in_progressive_and_rest_in_sequential(schedule: str) -> None:
    target = assemble(SPACE, ARCHITECTURE, 0)
    generator = torch.Generator().manual_seed(0)
    recipe = Recipe(schedule=schedule, align_steps=3, align_batch_size=64)
    first, second = (
        {name: p.detach().clone() for name, p in target.named_parameters()}
        for _ in align(uncounted(target, guide(), similarity("cka"), recipe, generator))
    )
    moved = {name.split(".")[1] for name in first if not torch.equal(first[name], second[name])}
    assert moved == ({"1", "2"} if schedule == "progressive" else {"2"})


def test_what_is_frozen_in_front_runs_once_for_all_steps() -> None:
    target, generator = assemble(SPACE, ARCHITECTURE, 0), torch.Generator().manual_seed(0)
    seen: list[int] = []
    by_stage: list[int] = []
    target.blocks[1].register_forward_hook(lambda _m, inputs, _o: seen.append(len(inputs[0])))

    recipe = Recipe(schedule="sequential", align_steps=5, align_batch_size=64)
    for _ in align(uncounted(target, guide(), similarity("cka"), recipe, generator)):
        by_stage.append(sum(seen))
        seen.clear()
    steps_look_measure_statistics_and_stitch = 5 * 64 + 64 + 64 + 192 + 192
    assert by_stage == [steps_look_measure_statistics_and_stitch, 192]


@pytest.mark.parametrize(
    ("schedule", "order", "expected"),
    [
        ("sequential", "forward", [1, 1, 2]),
        ("sequential", "reverse", [3, 2, 1]),
        ("progressive", "forward", [1, 1, 1]),
        ("independent", "forward", [1, 2, 3]),
    ],
)
def test_only_what_is_newly_frozen_runs_anew(
    schedule: str, order: Order, expected: list[int]
) -> None:
    run = stages(schedule, order, (1, 2, 3))
    assert [
        runs_from(stage, before) for before, stage in zip([None, *run[:-1]], run, strict=True)
    ] == expected
    assert all(runs_from(stage, None) == stage.start for stage in run)


def test_the_loss_of_a_stage_is_the_mean_over_its_aligned_blocks() -> None:
    target, cache, generator = assemble(SPACE, ARCHITECTURE, 0), guide(), torch.Generator()
    stage = stages("progressive", "forward", target.replaced)[-1]
    recipe = Recipe(align_batch_size=64)
    generator.manual_seed(0)
    alignment = uncounted(target, cache, similarity("cka"), recipe, generator)
    run = StageRun(alignment, 1, stage, cache.at(1))
    found = run._loss(0)
    batch = fixed_batches(cache.count, 64, generator.manual_seed(0))[0]
    first = target.blocks[1](cache.at(1)[batch])
    second = target.blocks[2](first)
    alike = [linear_cka(first, cache.at(2)[batch]), linear_cka(second, cache.at(3)[batch])]
    assert abs(alike[0] - alike[1]) > 0.01
    assert found.item() == pytest.approx(1 - (alike[0] + alike[1]).item() / 2, abs=1e-5)


def test_a_stitch_brings_the_block_into_the_guide_s_basis_without_a_new_layer() -> None:
    """After CKA the basis is any; the fold makes the output itself predict the guide's."""
    target = assemble(SPACE, ARCHITECTURE, 0)
    target.freeze_all_but(())
    cache = guide()
    stage = Stage(1, 2, (1,), (1,), 1, (1,))
    goal = cache.at(2)

    def unexplained() -> float:
        with torch.no_grad():
            found = target.blocks[1](cache.at(1))
        centred = goal - goal.mean((0, 2, 3), keepdim=True)
        return float((found - goal).square().sum() / centred.square().sum())

    parameters = sum(1 for _ in target.parameters())
    before = unexplained()
    residual = stitch(target, stage, torch.split(cache.at(1), 64), torch.split(goal, 64))
    assert residual is not None and residual < before
    assert unexplained() == pytest.approx(residual, abs=0.02)
    assert sum(1 for _ in target.parameters()) == parameters


@pytest.mark.parametrize("measure", ["cka", "regression"])
def test_recalibration_on_the_same_sample_leaves_a_stitched_block_as_it_was(
    measure: str,
) -> None:
    """One step leaves batch norms with a tenth of their statistics."""
    target, generator = assemble(SPACE, ARCHITECTURE, 0), torch.Generator().manual_seed(0)
    recipe = Recipe(schedule="independent", similarity=measure, align_steps=1, align_batch_size=192)
    cache = guide()
    align_points(target, cache, similarity(measure), recipe, generator)
    with torch.no_grad():
        block = target.blocks[1].eval()
        before = block(cache.at(1))
        with gathering_statistics(block):
            block(cache.at(1))
        assert batch_norms(block)
        torch.testing.assert_close(block(cache.at(1)), before, rtol=1e-3, atol=1e-4)


class Skipping(nn.Module):
    """A block whose skip is added to what `last` gives, in place or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.last = nn.Conv2d(6, 6, 3, 1, 1)
        self.in_place = in_place

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(x)
        return out.add_(x) if self.in_place else out + x


def test_a_skip_added_in_place_does_not_change_the_stitch() -> None:
    cache = guide()
    stage = Stage(1, 2, (1,), (1,), 1, (1,))
    residuals, outputs = [], []
    for in_place in (False, True):
        target = assemble(SPACE, ARCHITECTURE, 0)
        target.blocks[1] = Skipping(in_place)
        residuals.append(stitch(target, stage, [cache.at(1)], [cache.at(2)]))
        with torch.no_grad():
            outputs.append(target.blocks[1](cache.at(1)))
    assert residuals[0] == residuals[1]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("schedule", ["sequential", "progressive", "independent"])
def test_blocks_that_speak_the_guide_s_basis_start_from_least_squares(schedule: str) -> None:
    """With no step to take, the stitch behind a stage finds nothing left to explain."""
    recipe = Recipe(schedule=schedule, similarity="regression", align_steps=0, align_batch_size=64)
    _, started = run(recipe)
    _, random = run(recipe.model_copy(update={"similarity": "cka"}))
    error, residual = 1 - started["similarity/1"][0], started["stitch_residual/1"][0]
    # The error is of one batch, the residual of all.
    assert error == pytest.approx(residual, rel=0.2)
    assert residual == pytest.approx(random["stitch_residual/1"][0], rel=1e-3)


def test_training_that_makes_a_block_worse_is_tried_slower_and_then_left() -> None:
    """What the attempts took is told; the block is never worse than its least-squares start."""
    recipe = Recipe(
        schedule="independent", similarity="regression", align_steps=6, align_batch_size=64
    )
    _, started = run(recipe.model_copy(update={"align_steps": 0}))
    fast = recipe.model_copy(update={"align_learning_rate": 0.5})
    _, slower = run(fast)
    hopeless = recipe.model_copy(update={"align_learning_rate": 1e3})
    _, left = run(hopeless)
    position = "stitch_residual/1"
    assert slower["align_steps"][0] in (12, 18)
    assert slower[position][0] <= started[position][0]
    assert left["align_steps"][0] == 18
    assert left[position][0] == pytest.approx(started[position][0], rel=1e-4)


def test_units_with_many_inputs_take_smaller_steps() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(conv(1, 4, 2), nn.Flatten(), nn.Linear(4 * 16 * 16, 10))
    part = cut(net, ["0"], (1, 32, 32))
    mixer = TokenMixer(*part.boundaries[:2], hidden=32)
    chosen = Architecture((BlockChoice(Span(0, 1), "token_mlp"),))
    target = Target(chosen, [mixer], [False], part.boundaries[:2])
    recipe = Recipe(schedule="independent", align_steps=1, align_batch_size=64, weight_decay=0)
    activations = GuideActivations(part, torch.randn(64, 1, 32, 32), torch.device("cpu"))
    over_pixels, _, over_units = mixer.positions
    before = [layer.weight.detach().clone() for layer in (over_pixels, over_units)]
    align_points(target, activations, similarity("cka"), recipe, torch.Generator())
    moved = [(layer.weight - was).abs().max().item()
             for layer, was in zip((over_pixels, over_units), before, strict=True)]  # fmt: skip
    # Adam's first step is the learning rate itself.
    rate = recipe.align_learning_rate
    assert moved == pytest.approx([rate * 256 / 1024, rate], rel=0.01)


def test_a_loss_that_is_never_finite_is_an_error_that_names_the_remedy() -> None:
    recipe = Recipe(align_steps=3, align_batch_size=64, align_learning_rate=1e30)
    with pytest.raises(ConversionError, match=r"diverged: .* even at .*lower align_learning_rate"):
        run(recipe)


@pytest.mark.parametrize("width_share", [1.0, 0.5])
def test_a_block_over_tokens_starts_with_the_guide_s_hidden_units(width_share: float) -> None:
    """Only where it is fed the guide's own width; in another basis its units mean nothing."""
    network, at = vision_transformer(image=8, depth=2, heads=2, width=8, mlp=12)
    space = SearchSpace(
        guide=cut(network, at, (1, 8, 8)), task=digits(), widths=[1.0, 0.5],
        blocks=[Keep(), TokenMLP(hidden=12)],
    )  # fmt: skip
    layers = [BlockChoice(Span(i, i + 1), "token_mlp", (("hidden", 12),)) for i in (1, 2)]
    layers[0] = replace(layers[0], width_share=width_share)
    ends = [BlockChoice(Span(0, 1), "keep"), BlockChoice(Span(3, 4), "keep")]
    target = assemble(space, Architecture((ends[0], *layers, ends[1])), 0)
    activations = GuideActivations(space.guide, SAMPLE, torch.device("cpu"))
    recipe = Recipe(align_steps=0, align_batch_size=64)
    align_points(target, activations, similarity("regression"), recipe, torch.Generator())
    for position, taken in ((1, True), (2, width_share == 1)):
        guided = network.encoder.layers[position - 1].mlp[0].weight
        found = target.blocks[position].mlp[1].weight  # type: ignore[index,union-attr]
        same = guided.shape == found.shape and torch.equal(
            *(torch.tensor(sorted(w.tolist())) for w in (guided, found))
        )
        assert same == taken


def test_the_same_seed_gives_bit_equal_targets() -> None:
    recipe = Recipe(align_steps=3, align_batch_size=64)
    first, second, other = run(recipe)[0], run(recipe)[0], run(recipe, seed=1)[0]
    names = [n for n, _ in first.named_parameters()]
    equal = [
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    ]
    assert all(equal) and len(equal) == len(names)
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert not all(torch.equal(a, b) for a, b in pairs)


def test_recalibration_moves_statistics_only() -> None:
    target = assemble(SPACE, ARCHITECTURE, 0)
    weights = [p.clone() for p in target.parameters()]
    momenta = [m.momentum for m in target.modules() if isinstance(m, nn.BatchNorm2d)]
    statistics = [b.clone() for n, b in target.named_buffers() if n.endswith("running_var")]
    recalibrate(target, SPACE.task, 64, 128)
    after = [b for n, b in target.named_buffers() if n.endswith("running_var")]
    assert not any(torch.equal(a, b) for a, b in zip(statistics, after, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(weights, target.parameters(), strict=True))
    assert [m.momentum for m in target.modules() if isinstance(m, nn.BatchNorm2d)] == momenta
    assert target.training


@pytest.mark.parametrize("spoilt", [False, True])
def test_recalibration_stays_only_where_it_lowers_the_loss(spoilt: bool) -> None:
    """Beside a copy of the guide nothing is better; with statistics of nothing, new ones are."""
    kept = [BlockChoice(Span(i, i + 1), "keep") for i in range(len(SPACE.guide))]
    target = assemble(SPACE, Architecture(tuple(kept)), 0)
    norms = [module for module in target.modules() if isinstance(module, nn.BatchNorm2d)]
    if spoilt:
        for norm in norms:
            norm.running_var.fill_(1e-4)  # type: ignore[union-attr]
    before = {name: buffer.clone() for name, buffer in target.named_buffers()}
    loss = TrainingLoss(target, SPACE.task, Recipe(distill=1.0), guide())
    ran = recalibrate_if_better(target, SPACE.task, 64, 128, loss)
    changed = any(not torch.equal(b, before[name]) for name, b in target.named_buffers())
    assert norms and ran == 3 * 128 and changed == spoilt
    assert target.training


def test_recalibration_that_gives_no_finite_loss_is_undone() -> None:
    target = assemble(SPACE, ARCHITECTURE, 0)
    before = {name: buffer.clone() for name, buffer in target.named_buffers()}
    batches = -(-128 // 64)
    losses = iter([torch.tensor(1.0)] * batches + [torch.tensor(float("nan"))] * batches)
    recalibrate_if_better(target, SPACE.task, 64, 128, lambda _: next(losses))
    assert all(torch.equal(b, before[name]) for name, b in target.named_buffers())


def test_scratch_starts_kept_parts_anew_and_naive_does_not() -> None:
    fresh = assemble(SPACE, ARCHITECTURE, 0, fresh=True)
    kept = assemble(SPACE, ARCHITECTURE, 0)
    original = dict(SPACE.guide.parts[3].named_parameters())
    for name, parameter in kept.blocks[3].named_parameters():
        assert torch.equal(parameter, original[name])
    assert not any(torch.equal(p, original[n]) for n, p in fresh.blocks[3].named_parameters())


def test_embeddings_start_anew_at_the_scale_of_language_models() -> None:
    embedding = nn.Embedding(500, 64)
    reinitialise(embedding)
    assert embedding.weight.std().item() == pytest.approx(0.02, rel=0.2)


def test_activations_are_the_guide_s_own_and_bounded() -> None:
    cache = guide()
    with torch.no_grad():
        expected = SPACE.guide.eval()(SAMPLE)
    assert torch.allclose(cache.at(4), expected, atol=1e-6)
    small = GuideActivations(SPACE.guide, SAMPLE, torch.device("cpu"), limit_bytes=200_000)
    assert 2 <= small.count < len(SAMPLE)
    logits = cache.logits(SPACE.task)
    assert len(logits) == SPACE.task.size("train")
    batch = next(iter(SPACE.task.batches("train", 32, seed=1)))
    assert batch.index is not None
    assert torch.allclose(logits[batch.index], cache.teach(batch.inputs), atol=1e-5)


def test_a_stage_reports_the_multiply_adds_that_it_ran() -> None:
    """By hooks: every example that passes a block, but for the look at how alike the blocks are."""
    target, cache = assemble(SPACE, ARCHITECTURE, 0), guide()
    macs, looked = [7, 100, 1000, 7], 64
    seen = dict.fromkeys(range(4), 0)

    def watch(position: int) -> None:
        def hook(_module: nn.Module, inputs: tuple[torch.Tensor], _output: torch.Tensor) -> None:
            seen[position] += len(inputs[0])

        target.blocks[position].register_forward_hook(hook)

    for position in seen:
        watch(position)
    recipe = Recipe(schedule="sequential", align_steps=0, align_batch_size=64)
    generator = torch.Generator().manual_seed(0)
    told = []
    for measure in ("cka", "regression"):
        run = Alignment(target, cache, similarity(measure), recipe, generator, macs)
        for result in align(run):
            own = result.stage.trained[0]
            seen[own] -= looked
            told.append(result.macs)
            assert result.macs == sum(macs[position] * count for position, count in seen.items())
            seen |= dict.fromkeys(seen, 0)
    # Statistics of batch norms and the stitch, with an aligned basis before training as well; in
    # the second stage the first block, frozen in front.
    assert told == [
        2 * 192 * 100,
        192 * 100 + 2 * 192 * 1000,
        4 * 192 * 100,
        192 * 100 + 4 * 192 * 1000,
    ]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        ("forward", [3 * 100, 3 * 1000]),
        ("reverse", [3 * 1000, 3 * 100 + 2 * 1000]),  # gradients cross the frozen follower
    ],
)
def test_an_optimiser_step_costs_what_its_gradients_pass(order: Order, expected: list[int]) -> None:
    generator = torch.Generator()
    spent = []
    for steps in (0, 1):
        recipe = Recipe(
            schedule="sequential", order=order, align_steps=steps, align_batch_size=64,
            align_learning_rate=1e-6,
        )  # fmt: skip
        target = assemble(SPACE, ARCHITECTURE, 0)
        measure = similarity("cka")
        run = Alignment(target, guide(), measure, recipe, generator.manual_seed(0),
                        [7, 100, 1000, 7])  # fmt: skip
        spent.append([result.macs for result in align(run)])
    assert [one - none for none, one in zip(*spent, strict=True)] == [64 * e for e in expected]

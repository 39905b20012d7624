"""One block converted alone: bit-equal, what the schedule gives, and put into a target."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Recipe, SearchSpace, block, cut
from nas_theseus.blocks import Basic, Identity, Keep, Pointwise
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.divergence import ReplaceOne
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import ConversionError
from nas_theseus.guide.weights import plain_state
from nas_theseus.library.block_conversion import convert_block, keep_block, load_into
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from tests.unit.conversion.aligned import align_points


def conv(inlet: int, outlet: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU())


class Biasless(nn.Module):
    """Has dropout, which draws from torch's global generator, and a last map without bias."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inlet.width, 5, 3, 1, 1), nn.ReLU(), nn.Dropout(0.2))
        self.last = nn.Conv2d(5, outlet.width, 3, 1, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x))
        return out


def make_space() -> SearchSpace:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    net = nn.Sequential(conv(1, 6), conv(6, 6), conv(6, 8, 2), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)), task=digits(), max_span=2, widths=[1.0, 0.5],
        blocks=[Keep(), Basic(width=0.5), Pointwise(), Identity(), block(Biasless)],
        recipe=Recipe(align_steps=3, align_examples=192, align_batch_size=64),
    )  # fmt: skip


SPACE = make_space()
ACTIVATIONS = GuideActivations(SPACE.guide, SPACE.task.sample(192), torch.device("cpu"))
REPLACING = ReplaceOne(SPACE.guide, SPACE.task, 100, torch.device("cpu"))
BASIC = BlockChoice(Span(1, 2), "basic", (("width", 0.5),))
POINTWISE = BlockChoice(Span(2, 3), "pointwise", (("expand", 1.0),))
BIASLESS = BlockChoice(Span(1, 2), "biasless")


def architecture(*chosen: BlockChoice) -> Architecture:
    """These blocks, every other part kept."""
    choices, part = [], 0
    for one in [*chosen, BlockChoice(Span(4, 5), "end")]:
        choices += [BlockChoice(Span(i, i + 1), "keep") for i in range(part, one.span.start)]
        choices.append(one)
        part = one.span.stop
    return Architecture(tuple(choices[:-1]))


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[n], second[n]) for n in first)


def independent(chosen: Architecture, recipe: Recipe, seed: int) -> tuple[Target, dict[str, float]]:
    target = assemble(SPACE, chosen, seed)
    generator = torch.Generator().manual_seed(seed)
    points = align_points(target, ACTIVATIONS, similarity(recipe.similarity), recipe, generator)
    return target, {point.metric: point.value for point in points}


def test_nothing_of_an_earlier_conversion_shows() -> None:
    """Neither order nor company: what another process would make is what this one makes."""
    keys = BlockKeys(SPACE)
    first = convert_block(SPACE, keys.of(POINTWISE), ACTIVATIONS)[0]
    convert_block(SPACE, keys.of(BIASLESS), ACTIVATIONS)
    fresh = GuideActivations(SPACE.guide, SPACE.task.sample(192), torch.device("cpu"))
    assert equal(first, convert_block(SPACE, keys.of(POINTWISE), fresh)[0])


@pytest.mark.parametrize("chosen", [BASIC, POINTWISE, BIASLESS], ids=lambda c: c.block)
@pytest.mark.parametrize("measure", ["cka", "regression"])
def test_a_block_made_alone_is_bit_equal_to_that_of_the_independent_schedule(
    chosen: BlockChoice, measure: str
) -> None:
    recipe = SPACE.recipe.model_copy(update={"similarity": measure, "schedule": "independent"})
    key = BlockKeys(SPACE, recipe).of(chosen)
    torch.manual_seed(1)
    state, facts = convert_block(SPACE, key, ACTIVATIONS)
    torch.manual_seed(2)
    torch.rand(7)
    again, _ = convert_block(SPACE, key, ACTIVATIONS)
    assert equal(state, again)

    target, told = independent(architecture(chosen), recipe, key.seed)
    position = target.replaced[0]
    assert equal(state, plain_state(target.blocks[position]))
    assert facts.similarity == told[f"similarity/{position}"]
    assert facts.residual == told[f"stitch_residual/{position}"]


def test_a_block_does_not_depend_on_what_comes_behind_it() -> None:
    recipe = SPACE.recipe.model_copy(update={"schedule": "independent"})
    key = BlockKeys(SPACE, recipe).of(BASIC)
    state, _ = convert_block(SPACE, key, ACTIVATIONS)
    target, _ = independent(architecture(BASIC, POINTWISE), recipe, key.seed)
    assert equal(state, plain_state(target.blocks[1]))


def test_the_schedule_of_a_recipe_does_not_change_its_blocks() -> None:
    keys = [
        BlockKeys(SPACE, SPACE.recipe.model_copy(update={"schedule": schedule, "order": order}))
        for schedule, order in (("progressive", "forward"), ("joint", "reverse"))
    ]
    assert keys[0].of(BASIC) == keys[1].of(BASIC)


def test_facts_count_what_was_spent() -> None:
    key = BlockKeys(SPACE).of(BASIC)
    _, facts = convert_block(SPACE, key, ACTIVATIONS)
    macs = CostTable(SPACE).of_choice(BASIC).macs
    assert facts.macs == (3 * 3 * 64 + 4 * 192) * macs
    assert facts.steps == 3 and facts.device == "cpu" and facts.seconds > 0


def test_the_error_is_what_the_block_leaves_unexplained() -> None:
    key = BlockKeys(SPACE).of(BASIC)
    state, facts = convert_block(SPACE, key, ACTIVATIONS)
    made = SPACE.build(BASIC).eval()
    made.load_state_dict(state)
    goal = ACTIVATIONS.at(2)
    with torch.no_grad():
        missed = (made(ACTIVATIONS.at(1)) - goal).square().sum()
    spread = (goal - goal.mean((0, 2, 3), keepdim=True)).square().sum()
    assert facts.residual == pytest.approx(float(missed / spread), rel=1e-3)


def test_guide_and_activations_stay_as_they_are() -> None:
    before = SPACE.guide.content_hash()
    features = ACTIVATIONS.at(2).clone()
    convert_block(SPACE, BlockKeys(SPACE).of(BASIC), ACTIVATIONS)
    assert SPACE.guide.content_hash() == before
    assert torch.equal(ACTIVATIONS.at(2), features)


def test_a_block_at_the_input_and_between_free_widths() -> None:
    keys = BlockKeys(SPACE)
    first = keys.of(BlockChoice(Span(0, 2), "basic", (("width", 0.5),), 0.5))
    second = keys.of(POINTWISE, 0.5)
    for key in (first, second):
        state, facts = convert_block(SPACE, key, ACTIVATIONS)
        assert state and facts.residual > 0
    assert first.outlet == second.inlet


def test_what_cannot_be_converted_says_why() -> None:
    keys = BlockKeys(SPACE)
    few = GuideActivations(SPACE.guide, SPACE.task.sample(64), torch.device("cpu"))
    with pytest.raises(ConversionError, match="192 alignment examples.*are of 64"):
        convert_block(SPACE, keys.of(BASIC), few)
    wild = SPACE.recipe.model_copy(update={"align_learning_rate": 1e30, "align_steps": 30})
    with pytest.raises(ConversionError, match="lower align_learning_rate"):
        convert_block(SPACE, BlockKeys(SPACE, wild).of(BASIC), ACTIVATIONS)


def test_blocks_of_the_library_make_a_target(tmp_path: Path) -> None:
    library, keys = Library(tmp_path), BlockKeys(SPACE)
    chosen = architecture(BIASLESS, POINTWISE)
    of_blocks = keys.of_blocks(chosen)
    assert [key for key in of_blocks if key] == [keys.of(BIASLESS), keys.of(POINTWISE)]
    target = assemble(SPACE, chosen, 5)
    before = plain_state(target)
    for position in target.replaced:
        key = of_blocks[position]
        assert key is not None
        state, _ = convert_block(SPACE, key, ACTIVATIONS)
        entry, made = keep_block(SPACE, library, key, ACTIVATIONS)
        assert made is not None and entry.record.facts.macs == made.macs > 0
        again, none = keep_block(SPACE, library, key, ACTIVATIONS)
        assert none is None and equal(dict(again.state), state)
        load_into(target.blocks[position], again.state)
        assert equal(plain_state(target.blocks[position]), state)
    assert target.blocks[1].last.bias is not None  # type: ignore[union-attr] # of its stitch
    kept = plain_state(target.blocks[0])
    assert equal(kept, {n.removeprefix("blocks.0."): t for n, t in before.items()
                        if n.startswith("blocks.0.")})  # fmt: skip
    assert target(SPACE.task.sample(4)).shape == (4, 10)


def test_a_damaged_block_is_missing_and_made_again(tmp_path: Path) -> None:
    library, key = Library(tmp_path), BlockKeys(SPACE).of(BASIC)
    state, _ = convert_block(SPACE, key, ACTIVATIONS)
    wrong = dict(list(state.items())[1:])
    library.put(key, wrong, Facts(0.5, 0.5, 1, 1, 1.0, "cpu"))
    assert library.get(key, SPACE.build(BASIC)) is None
    entry, made = keep_block(SPACE, library, key, ACTIVATIONS)
    assert made is not None and equal(dict(entry.state), state)


def test_nothing_is_converted_for_a_kept_part() -> None:
    identity = BlockChoice(Span(1, 2), "identity")
    keys = BlockKeys(SPACE)
    expected = [None, keys.of(identity), keys.of(POINTWISE), None]
    assert keys.of_blocks(architecture(identity, POINTWISE)) == expected


def test_a_block_without_parameters_is_only_scored(tmp_path: Path) -> None:
    key = BlockKeys(SPACE).of(BlockChoice(Span(1, 2), "identity"))
    state, facts = convert_block(SPACE, key, ACTIVATIONS, REPLACING)
    assert state == {} and facts.steps == 0
    before, goal = ACTIVATIONS.at(1), ACTIVATIONS.at(2)
    spread = (goal - goal.mean((0, 2, 3), keepdim=True)).square().sum()
    assert facts.residual == pytest.approx(float((before - goal).square().sum() / spread), rel=1e-4)
    # It leaves out all that the part adds.
    assert facts.contribution_error == pytest.approx(1.0)
    assert facts.divergence is not None and facts.divergence > 0
    entry, made = keep_block(SPACE, Library(tmp_path), key, ACTIVATIONS)
    assert made is not None and dict(entry.state) == {}
    load_into(SPACE.build(key.choice), entry.state)


@pytest.mark.parametrize("chosen", [BASIC, POINTWISE, BIASLESS], ids=lambda c: c.block)
def test_the_divergence_is_that_of_the_guide_with_the_block_in_it(chosen: BlockChoice) -> None:
    """Second derivation: the whole network assembled, and the sum over classes written out."""
    key = BlockKeys(SPACE).of(chosen)
    state, facts = convert_block(SPACE, key, ACTIVATIONS, REPLACING)
    target = assemble(SPACE, architecture(chosen), 0)
    load_into(target.blocks[target.replaced[0]], state)
    (batch,) = SPACE.task.batches("validation", 100, seed=0, limit=100)
    with torch.no_grad():
        found, guides = target.eval()(batch.inputs).double(), SPACE.guide(batch.inputs).double()
    p, q = guides.softmax(1), found.softmax(1)
    expected = (p * (p.log() - q.log())).sum(1).mean()
    assert facts.divergence == pytest.approx(float(expected), rel=1e-2, abs=1e-8)

    costs = CostTable(SPACE)
    behind = sum(costs.part_macs[chosen.span.stop :])
    assert facts.divergence_macs == 100 * (costs.of_choice(chosen).macs + behind)
    without = convert_block(SPACE, key, ACTIVATIONS)
    assert equal(without[0], state) and without[1].divergence is None
    assert facts.macs == without[1].macs + facts.divergence_macs


def test_the_error_relative_to_the_contribution_is_for_streams_of_one_shape() -> None:
    keys = BlockKeys(SPACE)
    state, facts = convert_block(SPACE, keys.of(BIASLESS), ACTIVATIONS)
    made = SPACE.build(BIASLESS).eval()
    load_into(made, state)
    before, goal = ACTIVATIONS.at(1), ACTIVATIONS.at(2)
    with torch.no_grad():
        missed = (made(before) - goal).square().sum()
    expected = float(missed / (goal - before).square().sum())
    assert facts.contribution_error == pytest.approx(expected, rel=1e-3)
    assert convert_block(SPACE, keys.of(POINTWISE), ACTIVATIONS)[1].contribution_error is None
    narrow = BlockChoice(Span(1, 2), "basic", (("width", 0.5),), 0.5)
    assert convert_block(SPACE, keys.of(narrow, 0.5), ACTIVATIONS)[1].contribution_error is None


def test_a_block_between_free_widths_diverges_with_its_projections() -> None:
    keys = BlockKeys(SPACE)
    narrow = BlockChoice(Span(1, 2), "basic", (("width", 0.5),), 0.5)
    state, facts = convert_block(SPACE, keys.of(narrow, 0.5), ACTIVATIONS, REPLACING)
    made = SPACE.build(narrow, 0.5).eval()
    load_into(made, state)
    enter, leave = ACTIVATIONS.projection(1, 3), ACTIVATIONS.projection(2, 3)
    (batch,) = SPACE.task.batches("validation", 100, seed=0, limit=100)
    parts = SPACE.guide.parts
    with torch.no_grad():
        features = leave.to_guide(made(enter.to_target(parts[0](batch.inputs))))
        found = parts[3](parts[2](features))
        expected = SPACE.task.distillation(found, SPACE.guide(batch.inputs), 1.0)
    assert facts.divergence == pytest.approx(float(expected), rel=1e-2, abs=1e-8)

"""Wider, deeper and narrower forms of guide parts, as blocks of a space and as whole candidates."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.mobilenetv2 import InvertedResidual

from nas_theseus import Boundary, Guide, Recipe, SearchSpace, choice, cut, minimize
from nas_theseus.blocks import Basic, Keep
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.target import assemble
from nas_theseus.costs import count_macs, count_params
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import PairingError, TransformError
from nas_theseus.guide.networks import ResNet, vision_transformer
from nas_theseus.library.block_conversion import convert_block
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.searches.opening import growth_of, reference_of
from nas_theseus.space.genome import Genome
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import digits
from nas_theseus.transforms import Deeper, Narrower, Wider, widen_all
from nas_theseus.transforms.parts import grown, shrunk
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Progress

RECIPE = Recipe(
    epochs=0.5, align_steps=4, align_examples=128, align_batch_size=64, batch_size=64,
    learning_rate=1e-3,
)  # fmt: skip
FORMS = (Keep(), Wider(), Deeper(), Narrower())
VALUES = {
    "wider": {"kernel": 0, "width": 2.0},
    "deeper": {"kernel": 0, "layers": 1, "width": 1.0},
    "narrower": {"width": 0.5},
    "basic": {"width": 0.5},
}


def make_space(blocks=FORMS, width: int = 4, **settings) -> SearchSpace:
    torch.manual_seed(0)
    net = ResNet(blocks=(1, 1), width=width)
    guide = cut(net, net.cuts, (1, 8, 8))
    return SearchSpace(guide, digits(), blocks, keep=["head"], recipe=RECIPE, **settings)


def chain(*blocks: str) -> Architecture:
    return Architecture(
        tuple(
            BlockChoice(Span(i, i + 1), b, tuple(sorted(VALUES.get(b, {}).items())))
            for i, b in enumerate(blocks)
        )
    )


@pytest.fixture(scope="module")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    space = make_space([*FORMS, Basic(width=0.5)])
    learning = Recipe(epochs=8, distill=0, batch_size=64)
    prepare_guide(
        space.guide, space.task, learning, tmp_path_factory.mktemp("guides"), torch.device("cpu")
    )
    return Workshop(space, torch.device("cpu"))


def run(workshop: Workshop, chosen: Architecture, kept_in: Library | None = None, **changes):
    recipe = workshop.space.recipe.model_copy(update=changes)
    return result_of(workshop.convert(chosen, 0, recipe, library=kept_in))


def part(name: str) -> tuple[nn.Module, Tensor]:
    """A guide's part and what it might be fed."""
    if name == "encoder layer":
        guide = cut(*vision_transformer(16, 4, depth=1, width=16, mlp=24), (1, 16, 16))
    else:
        nets = {"basic": ((1,), False), "bottleneck": ((1,), True), "stage": ((2, 2), False)}
        blocks, bottleneck = nets[name]
        net = ResNet(blocks, 8, bottleneck=bottleneck)
        guide = cut(net, ["stem", net.cuts[-1]], (1, 12, 12))
    return guide.parts[1], torch.randn(16, *guide.boundaries[1].shape)


def inlet_of(features: Tensor) -> Boundary:
    return Boundary(tuple(features.shape[1:]))


def kernels(module: nn.Module) -> list[tuple[int, ...]]:
    return [m.kernel_size for m in module.modules() if isinstance(m, nn.Conv2d)]


PARTS = ("basic", "bottleneck", "stage", "encoder layer")


@pytest.mark.parametrize("name", PARTS)
@pytest.mark.parametrize("form", [{"width": 1.5}, {"layers": 2}, {"width": 2, "layers": 1}])
def test_a_grown_part_computes_the_same_and_costs_more(name, form, trained, difference) -> None:
    teacher, features = part(name)
    student = grown(copy.deepcopy(trained(teacher)), features, **form)
    assert difference(teacher, student, features) < 1e-5
    inlet = inlet_of(features)
    assert count_macs(student, inlet) > 1.2 * count_macs(teacher, inlet)
    assert count_params(student) > 1.2 * count_params(teacher)


@pytest.mark.parametrize("name", ["basic", "bottleneck", "stage"])
def test_kernels_grow_but_1x1_ones(name, trained, difference) -> None:
    teacher, features = part(name)
    student = grown(copy.deepcopy(trained(teacher)), features, kernel=2)
    assert difference(teacher, student, features) < 1e-5
    assert kernels(student) == [(5, 5) if k == (3, 3) else k for k in kernels(teacher)]


@pytest.mark.parametrize("name", PARTS)
def test_a_part_grown_and_shrunk_again_has_its_old_shape(name) -> None:
    teacher, features = part(name)
    wide = grown(copy.deepcopy(teacher), features, width=2)
    back = shrunk(copy.deepcopy(wide), features, width=0.5)
    assert count_params(back) == count_params(teacher)
    assert count_macs(back, inlet_of(features)) < 0.7 * count_macs(wide, inlet_of(features))
    assert back(features).shape == teacher(features).shape


def test_a_depthwise_convolution_s_channels_are_those_of_the_layer_before() -> None:
    part = InvertedResidual(8, 8, stride=1, expand_ratio=3)
    features = torch.randn(16, 8, 6, 6)
    narrow = shrunk(copy.deepcopy(part), features, width=0.5)
    wide = grown(copy.deepcopy(part), features, width=2)
    widths = [
        [m.out_channels for m in form.modules() if isinstance(m, nn.Conv2d)]
        for form in (part, narrow, wide)
    ]
    assert widths == [[24, 24, 8], [12, 12, 8], [48, 48, 8]]


def test_activations_decide_which_channels_a_narrower_part_keeps(trained) -> None:
    teacher, features = part("basic")
    conv = teacher.block1.conv1
    with torch.no_grad():
        conv.weight[[1, 4, 6, 7]] = 0  # their norms' biases below 0 keep them silent
        teacher.block1.norm1.bias[[1, 4, 6, 7]] = -1
    student = shrunk(copy.deepcopy(teacher), features, width=0.5)
    assert torch.equal(student[0].block1.conv1.weight, conv.weight[[0, 2, 3, 5]])


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p, x: grown(p, x), "does not grow it"),
        (lambda p, x: grown(p, x, width=0.5), "does not grow it"),
        (lambda p, x: grown(p, x, kernel=1), "even number"),
        (lambda p, x: shrunk(p, x, width=1.0), "does not shrink it"),
        (lambda p, x: shrunk(p, x, width=0.99), "no channel that can be removed"),
        (lambda p, x: grown(nn.Sequential(nn.Conv2d(8, 8, 1)), x, width=2), "no hidden channels"),
        (lambda p, x: grown(nn.Sequential(nn.ReLU()), x, width=2), "no convolution, linear layer"),
        (lambda p, x: grown(nn.Sequential(nn.Conv2d(8, 8, 1)), x, kernel=2), "larger than 1"),
    ],
)
def test_forms_that_a_part_does_not_have_are_refused(make, said) -> None:
    teacher, features = part("basic")
    with pytest.raises(TransformError, match=said):
        make(teacher, features)


def test_a_space_offers_the_forms_that_every_part_has() -> None:
    space = make_space([Keep(), Wider(choice(2, 1.5)), Deeper(), Narrower()], width=8)
    assert mistakes_in(space) == []
    # The stem is one layer, whose channels all leave it; the head is always kept.
    offered = {span.start: list(fits) for (span, _), fits in space.fitting.items()}
    block = ["keep", "wider", "deeper", "narrower"]
    assert offered == {0: ["keep", "deeper"], 1: block, 2: block, 3: ["keep"]}
    assert space.count() == 2 * 5 * 5
    genome = Genome(space)
    chosen = Architecture(
        (*chain("deeper", "keep").choices, *chain("keep", "keep", "wider", "keep").choices[2:])
    )
    assert genome.decode(genome.encode(chosen)) == chosen


def test_a_form_that_no_part_has_is_told() -> None:
    said = mistakes_in(make_space([Keep(), Narrower(width=2.0), Wider(kernel=3)]))
    assert [line.partition(";")[0] for line in said] == [
        "block 'narrower' cannot replace any span", "block 'wider' cannot replace any span",
    ]  # fmt: skip
    assert "does not shrink it" in said[0] and "no hidden channels" in said[1]
    with pytest.raises(PairingError, match="'wider' cannot be made from this part"):
        make_space().build(BlockChoice(Span(0, 1), "wider", (("kernel", 0), ("width", 2.0))))


def test_forms_stand_between_the_guide_s_own_widths_only() -> None:
    space = make_space([*FORMS, Basic(width=0.5)], widths=(0.5,), max_span=2)
    for (span, share), fits in space.fitting.items():
        for name in {"wider", "deeper", "narrower"} & set(fits):
            assert (len(span), share, fits[name]) == (1, 1.0, (1.0,))
    assert "wider" in space.fitting[Span(1, 2), 1.0]
    assert space.fitting[Span(1, 2), 0.5].keys() == {"basic"}


def test_costs_are_those_of_each_part_s_own_form(workshop) -> None:
    found = run(workshop, chain("keep", "wider", "wider", "keep"), epochs=0.0)
    inlet = workshop.space.guide.boundaries[0]
    assert found.evaluation.cost.macs == count_macs(found.network, inlet)
    assert found.evaluation.cost.params == count_params(found.network)
    first, second = (
        workshop.costs.of_choice(chain("keep", "wider", "wider").choices[i]).params for i in (1, 2)
    )
    assert first < second


def test_grown_candidates_begin_as_the_guide_and_are_trained(workshop) -> None:
    guide, inputs = workshop.space.guide, workshop.space.task.sample(64)
    chosen = chain("deeper", "wider", "deeper", "keep")
    untrained = run(workshop, chosen, epochs=0.0).network
    with torch.no_grad():
        outputs = guide(inputs)
        assert (untrained(inputs) - outputs).abs().max() < 1e-5 * outputs.abs().max()
    found = run(workshop, chosen)
    evaluation = found.evaluation
    assert not evaluation.similarities
    assert evaluation.cost.macs > workshop.costs.of_parts().macs
    seen = round(0.5 * (workshop.space.task.size("train") // 64)) * 64
    # Nothing for alignment.
    assert evaluation.train_macs_spent == 3 * seen * evaluation.cost.macs
    with torch.no_grad():
        assert not torch.equal(found.network(inputs), outputs)


def test_narrower_blocks_start_from_the_guide_s_channels_and_are_aligned(workshop) -> None:
    chosen = chain("keep", "narrower", "keep", "keep")
    start = assemble(workshop.space, chosen, 0, activations=workshop.activations)
    kept = start.blocks[1][0].block1.conv1.weight
    whole = workshop.space.guide.parts[1].block1.conv1.weight
    assert all(any(torch.equal(row, old) for old in whole) for row in kept)
    assert len(kept) == 2 and start.replaced == (1,)

    def residual(**changes: object) -> float:
        curve = run(workshop, chosen, epochs=0.0, **changes).evaluation.curve
        (found,) = (p.value for p in curve if p.metric == "stitch_residual/1")
        return found

    before, after = residual(align_steps=0), residual(align_steps=30)
    assert 0 < after < 0.9 * before
    # By hand: what is left of the guide's variance behind the part.
    features, goal = workshop.activations.at(1), workshop.activations.at(2)
    block = run(workshop, chosen, epochs=0.0, align_steps=30, recalibrate=False).network.blocks[1]
    with torch.no_grad():
        left = (goal - block(features)).square().sum()
    spread = (goal - goal.mean((0, 2, 3), keepdim=True)).square().sum()
    assert after == pytest.approx(float(left / spread), rel=1e-4)


def test_the_library_holds_narrower_blocks_and_no_grown_ones(workshop, tmp_path: Path) -> None:
    library = Library(str(tmp_path))
    chosen = chain("keep", "narrower", "wider", "keep")
    keys = BlockKeys(workshop.space).of_blocks(chosen)
    assert [key is not None for key in keys] == [False, True, False, False]
    run(workshop, chosen, kept_in=library, library=True, epochs=0.0)
    entry = library.get(keys[1])
    state, facts = convert_block(workshop.space, keys[1], workshop.activations)
    assert facts.residual == entry.record.facts.residual
    assert all(torch.equal(tensor, entry.state[name]) for name, tensor in state.items())


@pytest.mark.parametrize("schedule", ["progressive", "independent", "joint", "naive", "scratch"])
def test_every_schedule_takes_forms_among_other_blocks(workshop, schedule) -> None:
    found = run(workshop, chain("deeper", "narrower", "basic", "keep"), schedule=schedule)
    aligned = set() if schedule in ("naive", "scratch") else {1, 2}
    assert set(found.evaluation.similarities) == aligned
    if schedule == "scratch":
        (own,) = (p for p in found.evaluation.curve if (p.metric, p.step) == ("val_accuracy", 0))
        assert own.value < 0.3


def test_half_converted_networks_run_the_guide_where_it_is_to_be_grown(workshop) -> None:
    chosen = chain("deeper", "basic", "wider", "keep")
    steps = workshop.convert(
        chosen, 0, workshop.space.recipe.model_copy(update={"hybrid_epochs": 0.2}),
        score_hybrids=True,
    )  # fmt: skip
    points = [p for event in steps if isinstance(event, Progress) for p in event.points]
    assert [p.metric for p in points if p.metric.startswith("hybrid/")] == ["hybrid/val_accuracy"]


def test_weights_tied_between_parts_stay_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.shared = nn.Linear(4, 4)
            self.hidden = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 4))
            self.head = nn.Linear(4, 10)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.shared(x.flatten(1)[:, :4]))
            return self.head(torch.relu(self.shared(self.hidden(x) + x)))

    net = Tied()
    names = ["relu", "head"]
    guide = cut(net, [names[0]], (1, 8, 8))
    space = SearchSpace(guide, digits(), [Keep(), Wider()], recipe=RECIPE)
    target = assemble(space, chain("keep", "wider"), 0)
    assert target.blocks[0].shared.weight is target.blocks[1][0].shared.weight
    assert target.blocks[1].get_submodule("0.hidden.0").out_features == 12


def test_the_hypervolume_counts_what_is_dearer_than_the_guide_where_blocks_grow_it() -> None:
    space = make_space()
    costs = CostTable(space)
    guide = {"val_accuracy": 0.9, **costs.of_parts().known()}
    goals = (*space.goals, minimize("macs", reference=7.0))
    plain = replace(space, blocks=[Keep(), Narrower()])
    assert growth_of(plain, CostTable(plain)) == 1
    growth = growth_of(space, costs)
    assert growth >= costs.range("macs")[1] / guide["macs"] > 1
    reference = reference_of(space.goals, guide, growth)
    assert reference == {"val_accuracy": pytest.approx(0.8), "macs": guide["macs"] * growth}
    assert reference_of(goals, guide, growth)["macs"] == 7


def test_activations_are_not_needed_to_rebuild(workshop) -> None:
    chosen = chain("deeper", "narrower", "wider", "keep")
    found = run(workshop, chosen).network
    rebuilt = assemble(workshop.space, chosen, 5).eval()
    rebuilt.load_state_dict(found.state_dict())
    inputs = workshop.space.task.sample(8)
    with torch.no_grad():
        assert torch.equal(rebuilt(inputs), found(inputs))


@pytest.mark.parametrize("method", ["r2wider", "netmorph"])
def test_all_volumes_of_a_network_at_once(method, trained, difference) -> None:
    teacher = trained(ResNet((1, 1), 4))
    student = widen_all(teacher, (1, 12, 12), 2, method)
    assert difference(teacher, student, torch.randn(4, 1, 12, 12)) < 1e-5
    widths = [m.out_channels for m in student.modules() if isinstance(m, nn.Conv2d)]
    before = [m.out_channels for m in teacher.modules() if isinstance(m, nn.Conv2d)]
    assert widths == [2 * width for width in before]
    assert student.head[2].out_features == 10


def test_a_guide_given_as_a_chain_grows_too(trained, difference) -> None:
    hidden = nn.Sequential(nn.Linear(64, 6), nn.Tanh(), nn.Linear(6, 8), nn.Tanh())
    guide = Guide([("hidden", nn.Sequential(nn.Flatten(), *trained(hidden))),
                   ("head", nn.Linear(8, 10))], (1, 8, 8))  # fmt: skip
    space = SearchSpace(guide, digits(), [Keep(), Deeper(width=1.5)], recipe=RECIPE)
    values = (("kernel", 0), ("layers", 1), ("width", 1.5))
    form = space.build(BlockChoice(Span(0, 1), "deeper", values))
    assert difference(guide.parts[0], form, torch.randn(8, 1, 8, 8)) < 1e-5
    assert GuideActivations(guide, torch.randn(4, 1, 8, 8), torch.device("cpu")).at(1).shape[1] == 8

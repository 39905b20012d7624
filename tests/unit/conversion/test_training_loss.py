"""The loss of task training: what each weight adds, what the guide runs for, what is never read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Basic, Keep
from nas_theseus.conversion import activations as activations_module
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.hybrid import Hybrid
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.conversion.training_loss import TrainingLoss, hidden_distance
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import Batch, digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

TASK = digits()
CPU = torch.device("cpu")


def conv(inlet: int, outlet: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def make_space() -> SearchSpace:
    torch.manual_seed(0)
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 10))
    guide = cut(nn.Sequential(conv(1, 4), conv(4, 6), head), ["0", "1"], (1, 8, 8))
    blocks = [Keep(), Basic(width=0.5)]
    return SearchSpace(guide=guide, task=TASK, blocks=blocks, widths=(0.5, 1.0))


SPACE = make_space()
BASIC = "basic", (("width", 0.5),)


def target(share: float = 1.0) -> Target:
    chosen = Architecture(
        (
            BlockChoice(Span(0, 1), *BASIC, share),
            BlockChoice(Span(1, 2), *BASIC),
            BlockChoice(Span(2, 3), "keep"),
        )
    )
    return assemble(SPACE, chosen, 0).train()


class Counted(GuideActivations):
    """Counts how often the guide runs, and for what."""

    def __init__(self, guide: Guide = SPACE.guide) -> None:
        super().__init__(guide, TASK.sample(8), CPU)
        self.runs: list[tuple[int, ...]] = []

    def teach(self, inputs: Tensor) -> Tensor:
        self.runs.append(())
        return super().teach(inputs)

    def states(self, inputs: Tensor, at: Any) -> dict[int, Tensor]:
        self.runs.append(tuple(sorted(at)))
        return super().states(inputs, at)


def batch(count: int = 8, indexed: bool = False) -> Batch:
    inputs, targets, index = next(TASK.batches("train", count))
    return Batch(inputs, targets, index if indexed else None)


def by_hand(features: Tensor, guide: Tensor) -> float:
    """One minus cosine, position by position with plain sums."""
    rows = [t.detach().double().movedim(1, -1).reshape(-1, t.shape[1]) for t in (features, guide)]
    lengths = [(r * r).sum(1).sqrt().clamp_min(1e-8) for r in rows]
    return float((1 - (rows[0] * rows[1]).sum(1) / (lengths[0] * lengths[1])).mean())


def test_hidden_states_by_hand_and_added_to_the_other_terms() -> None:
    network, given, teacher = target(), batch(), Counted()
    first = network.blocks[0](given.inputs)
    second = network.blocks[1](first)
    outputs = network.blocks[2](second)
    guide = SPACE.guide.features(given.inputs, {1, 2, 3})
    hidden = (by_hand(first, guide[1]) + by_hand(second, guide[2])) / 2
    outputs = outputs.detach()
    labelled = float(TASK.loss(outputs, given.targets))
    divergence = float(TASK.distillation(outputs, guide[3], 2.0))
    for distill, weight in ((0.0, 1.0), (0.25, 3.0), (1.0, 0.5)):
        recipe = Recipe(distill=distill, hidden=weight)
        found = float(TrainingLoss(network, TASK, recipe, teacher)(given).detach())
        wanted = (1 - distill) * labelled + distill * divergence + weight * hidden
        assert found == pytest.approx(wanted, rel=1e-5)
    # One pass each, with the outputs only where their divergence is in the loss.
    assert teacher.runs == [(1, 2), (1, 2, 3), (1, 2, 3)]


def test_the_guide_itself_is_at_no_distance_from_itself() -> None:
    states = SPACE.guide.features(TASK.sample(4), {1, 2})
    shifted = {boundary: 3 * features for boundary, features in states.items()}
    # Positions where all channels are 0 have no direction; none of these is one.
    alive = {b: f for b, f in states.items() if bool((f.abs().sum(1) > 0).all())}
    assert float(hidden_distance(alive, shifted)) == pytest.approx(0, abs=1e-6)
    assert float(hidden_distance({}, states)) == 0


def test_a_boundary_of_another_width_is_not_compared() -> None:
    network, teacher = target(share=0.5), Counted()
    assert network.boundaries[1].width == 2
    TrainingLoss(network, TASK, Recipe(distill=0, hidden=1), teacher)(batch())
    assert teacher.runs == [(2,)]


def test_a_hybrid_is_compared_at_its_own_boundaries() -> None:
    whole, teacher = target(share=0.5), Counted()
    hybrid = Hybrid(whole, teacher, (1,))
    TrainingLoss(hybrid, TASK, Recipe(hidden=1, distill=0), teacher)(batch())
    assert teacher.runs == [(1, 2)]  # the guide's own part is in the first place
    with torch.no_grad():
        features = TASK.sample(4)
        for link in hybrid.links():
            features = link(features)
        assert torch.equal(features, hybrid(TASK.sample(4)))


def test_gradients_of_hidden_states_reach_the_blocks_before() -> None:
    network = target()
    TrainingLoss(network, TASK, Recipe(distill=0, hidden=1), Counted())(batch()).backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None and p.grad.any() for p in network.blocks[0].parameters())
    # The head is behind the last hidden state.
    assert all(p.grad is None for p in network.blocks[2].parameters())


class Unlabelled:
    """A task whose targets cannot be read."""

    def __init__(self) -> None:
        self.size, self.outputs = TASK.size, TASK.outputs
        self.distillation, self.data_hash = TASK.distillation, TASK.data_hash

    def batches(self, *given: Any, **options: Any) -> Iterator[Batch]:
        for inputs, _, index in TASK.batches(*given, **options):
            yield Batch(inputs, None, index)  # type: ignore[arg-type]

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise AssertionError("labels were read")


@pytest.mark.parametrize("hidden", [0.0, 1.0])
def test_with_the_guide_alone_labels_are_never_read(hidden: float) -> None:
    recipe = Recipe(steps=2, distill=1, hidden=hidden, batch_size=16, micro_batch=8)
    task: Any = Unlabelled()
    assert len(list(train(target(), task, recipe, 0, Counted()))) == 2
    with pytest.raises(AssertionError, match="labels were read"):
        list(train(target(), task, recipe.model_copy(update={"distill": 0.5}), 0, Counted()))


def test_outputs_of_the_whole_split_are_stored_only_where_they_are_small(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    needed = 4 * TASK.size("train") * 10
    found = []
    for limit in (needed, needed - 1):
        monkeypatch.setattr(activations_module, "OUTPUTS_LIMIT_BYTES", limit)
        teacher = Counted()
        loss = TrainingLoss(target(), TASK, Recipe(distill=1), teacher)
        found.append(float(loss(batch(indexed=True)).detach()))
        anew = limit < needed
        assert (teacher.runs, teacher._logits == {}) == ([()] * anew, anew)
        assert loss.teaches_anew(batch(indexed=True)) == anew
    assert found[0] == pytest.approx(found[1], rel=1e-6)
    hidden = TrainingLoss(target(), TASK, Recipe(distill=1, hidden=1), Counted())
    assert hidden.teaches_anew(batch(indexed=True))
    assert not TrainingLoss(target(), TASK, Recipe(), None).teaches_anew(batch())


def test_precision_is_what_the_recipe_says() -> None:
    seen: list[torch.dtype] = []
    network = target()
    network.blocks[2].register_forward_hook(lambda _m, _i, out: seen.append(out.dtype))
    losses = []
    for precision in ("auto", "float32", "bfloat16"):
        recipe = Recipe(precision=precision, hidden=1)  # type: ignore[arg-type]
        loss = TrainingLoss(network, TASK, recipe, Counted())(batch())
        losses.append(float(loss.detach()))
    assert seen == [torch.float32, torch.float32, torch.bfloat16]
    assert losses[0] == losses[1] != losses[2]
    assert losses[2] == pytest.approx(losses[0], rel=0.05)


def test_hidden_states_of_what_is_no_chain_are_refused() -> None:
    flat = nn.ModuleList([nn.Flatten(), nn.Linear(64, 10)])
    with pytest.raises(ConversionError, match="hidden needs a network that is a chain"):
        TrainingLoss(flat, TASK, Recipe(hidden=1), Counted())
    TrainingLoss(flat, TASK, Recipe(hidden=1), None)  # without a guide there are none

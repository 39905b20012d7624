"""A cell trains its stitch and nothing else, and says what the stitched network is worth."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.conversion.stitch_layer import make_stitch
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.stitching.cells import Endpoint, StitchRecipe
from nas_theseus.stitching.measure import Examples, Frozen, Side, fewest_examples, measure
from nas_theseus.tasks import digits
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Boundary

TASK = digits()
CPU = torch.device("cpu")
RECIPE = StitchRecipe(examples=600, score_examples=359, epochs=2, cka_examples=64)


def network(width: int, seed: int, extra: nn.Module | None = None) -> Guide:
    torch.manual_seed(seed)
    stem = nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())
    body = nn.Sequential(nn.Conv2d(width, 2 * width, 3, 2, 1), nn.BatchNorm2d(2 * width), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(32 * width, 10))
    if extra is not None:
        head.insert(0, extra)
    return Guide([("stem", stem), ("body", body), ("head", head)], (1, 8, 8))


def sides(sender: Guide, receiver: Guide) -> tuple[tuple[Side, Side], tuple[Tensor, Tensor]]:
    training, validation = (
        Examples.of(TASK, split, count, CPU)
        for split, count in (("train", RECIPE.examples), ("validation", RECIPE.score_examples))
    )
    return (
        (Side(sender, training, validation), Side(receiver, training, validation)),
        (training.targets, validation.targets),
    )


def ends(i: int, j: int) -> tuple[Endpoint, Endpoint]:
    return Endpoint("a", True, i), Endpoint("b", True, j)


def test_a_network_stitched_into_itself_is_itself() -> None:
    guide = network(4, 0)
    both, targets = sides(guide, guide)
    recipe = RECIPE.model_copy(update={"epochs": 0.0})
    for boundary in (1, 2):
        cell = measure(recipe, TASK, both, ends(boundary, boundary), targets, 0)
        assert cell.residual == pytest.approx(0, abs=1e-5)
        assert cell.cka == pytest.approx(1, abs=1e-4)
        assert cell.quality == cell.start_quality == pytest.approx(
            score(guide, TASK, "validation"), abs=0.006
        )  # fmt: skip


def test_only_the_stitch_trains_and_it_learns() -> None:
    sender, receiver = network(4, 0), network(3, 1)
    before = copy.deepcopy(sender.state_dict()), copy.deepcopy(receiver.state_dict())
    both, targets = sides(sender, receiver)
    recipe = RECIPE.model_copy(update={"start": "kaiming", "epochs": 6.0, "learning_rate": 1e-2})
    cell = measure(recipe, TASK, both, ends(1, 2), targets, 0)
    assert cell.quality > cell.start_quality + 0.2  # even a random receiver can be spoken to
    assert cell.residual is None
    for state, network_ in zip(before, (sender, receiver), strict=True):
        for name, tensor in network_.state_dict().items():
            assert torch.equal(tensor, state[name]), name
        assert not any(m.training for m in network_.modules())
    again = measure(recipe, TASK, sides(sender, receiver)[0], ends(1, 2), targets, 0)
    assert (again.quality, again.cka) == (cell.quality, cell.cka)


def test_the_representation_is_learnt_when_asked_for() -> None:
    both, targets = sides(network(4, 0), network(4, 1))
    recipe = RECIPE.model_copy(
        update={"start": "kaiming", "loss": "representation", "epochs": 30.0, "learning_rate": 1e-2}
    )
    torch.manual_seed(0)
    fitted = measure(RECIPE.model_copy(update={"epochs": 0.0}), TASK, both, ends(1, 1), targets, 0)
    learnt = measure(recipe, TASK, both, ends(1, 1), targets, 0)
    # Both minimise the same error, so both networks come out alike.
    assert learnt.quality == pytest.approx(fitted.quality, abs=0.03)


class Counting(nn.Module):
    """Counts its calls in a buffer, in eval mode too."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        with torch.inference_mode(False):
            self.calls += 1
        return x


def test_a_receiver_that_changes_is_refused() -> None:
    both, targets = sides(network(4, 0), network(4, 1, Counting()))
    with pytest.raises(ConversionError, match=r"a-trained-1 → b-trained-2: the receiver changed"):
        measure(RECIPE, TASK, both, ends(1, 2), targets, 0)


def test_frozen_parts_stay_in_eval_mode() -> None:
    frozen = Frozen(network(4, 0).parts)
    nn.Sequential(nn.Linear(2, 2), frozen).train()
    assert not any(module.training for module in frozen.modules())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize(
    ("inlet", "outlet", "needed"),
    [
        ((8, 4, 4), (5, 4, 4), 1),  # 9 unknowns, 16 rows an example
        ((8, 4, 4), (5, 2, 2), 9),  # 33 unknowns, 4 rows
        ((20,), (5,), 21),
        ((6, 4), (5, 3, 2), 1),
        ((4, 3, 2), (7, 5), 5),  # the class token has one row an example
    ],
)
def test_fewest_examples(inlet: tuple, outlet: tuple, needed: int) -> None:
    assert fewest_examples(make_stitch(Boundary(inlet), Boundary(outlet))) == needed


def test_too_few_examples_are_told_with_what_is_needed() -> None:
    sender, receiver = network(8, 0), network(3, 1)
    few = Examples.of(TASK, "train", 2, CPU)
    both = Side(sender, few, few), Side(receiver, few, few)
    with pytest.raises(ConversionError, match=r"a-trained-1 → b-trained-2: .* at least 3 examples"):
        measure(RECIPE, TASK, both, ends(1, 2), (few.targets, few.targets), 0)

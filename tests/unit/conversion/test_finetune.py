"""Task training: learns, follows its seed, distils, and stops where it diverges."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, cut
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.guide_training import guide_key, prepare_guide
from nas_theseus.errors import ConversionError, GuideError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import digits
from nas_theseus.tasks.score import score

TASK = digits()


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def guide(seed: int = 0) -> Guide:
    return cut(network(seed), ["2"], (1, 8, 8))


def test_training_learns_and_follows_its_seed() -> None:
    recipe = Recipe(epochs=3, distill=0, batch_size=64)
    first, second = network(), network()
    losses = [epoch.loss for epoch in train(first, TASK, recipe, seed=1)]
    assert losses[-1] < losses[0] / 3
    assert [epoch.loss for epoch in train(second, TASK, recipe, seed=1)] == losses
    assert score(first, TASK, "validation") > 0.85 > score(network(), TASK, "validation")
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("steps", range(1, 12))
def test_any_number_of_steps_trains(steps: int) -> None:
    batches = TASK.size("train") // 64
    recipe = Recipe(epochs=steps / batches, distill=0, batch_size=64)
    student, before = network(), network().state_dict()
    (epoch,) = train(student, TASK, recipe, seed=1)
    assert epoch.examples == 64 * steps
    assert not any(torch.equal(t, before[name]) for name, t in student.state_dict().items())


def test_a_fraction_that_rounds_to_no_step_is_no_epoch() -> None:
    recipe = Recipe(epochs=1 + 0.4 / (TASK.size("train") // 64), distill=0, batch_size=64)
    (epoch,) = train(network(), TASK, recipe, seed=1)
    assert epoch.loss > 0 and epoch.examples == TASK.size("train") // 64 * 64


def test_a_student_learns_from_the_guide_alone() -> None:
    teacher = network(3)
    for _ in train(teacher, TASK, Recipe(epochs=5, distill=0, batch_size=64), seed=0):
        pass
    taught = GuideActivations(cut(teacher, ["2"], (1, 8, 8)), TASK.sample(64), torch.device("cpu"))
    student = network(5)
    for _ in train(student, TASK, Recipe(epochs=5, distill=1, batch_size=64), 0, taught):
        pass
    assert score(student, TASK, "validation") > score(teacher, TASK, "validation") - 0.05


def test_divergence_is_an_error_that_names_the_remedy() -> None:
    recipe = Recipe(epochs=2, distill=0, learning_rate=1e30, batch_size=64)
    with pytest.raises(ConversionError, match="lower learning_rate"):
        list(train(network(), TASK, recipe, seed=0))


def test_a_guide_is_trained_once_and_a_damaged_file_is_told(tmp_path) -> None:  # type: ignore[no-untyped-def]
    recipe = Recipe(epochs=1, distill=0, batch_size=64)
    epochs: list[float] = []
    told = lambda epoch: epochs.append(epoch.loss)  # noqa: E731
    first = guide()
    path = prepare_guide(first, TASK, recipe, tmp_path, torch.device("cpu"), told)
    assert len(epochs) == 1 and math.isfinite(epochs[0])
    second = guide()
    again = prepare_guide(second, TASK, recipe, tmp_path, torch.device("cpu"), told)
    assert again == path and len(epochs) == 1
    assert second.content_hash() == first.content_hash()
    other = prepare_guide(guide(), TASK, recipe.model_copy(update={"epochs": 2}), tmp_path,
                          torch.device("cpu"))  # fmt: skip
    assert other != path
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(GuideError, match=r"is damaged.*Delete this file"):
        prepare_guide(guide(), TASK, recipe, tmp_path, torch.device("cpu"))


@pytest.mark.parametrize("changes", [{"align_steps": 7}, {"library": True}, {"distill": 0.1}])
def test_a_guide_is_not_trained_again_for_what_its_training_leaves_alone(
    changes: dict[str, object],
) -> None:
    recipe = Recipe(epochs=1)
    key = guide_key(guide(), TASK, recipe)
    assert guide_key(guide(), TASK, recipe.model_copy(update=changes)) == key
    assert guide_key(guide(), TASK, recipe.model_copy(update={"epochs": 2.0})) != key


class Small(nn.Module):
    """A network on a device that holds so many examples at once."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.inner, self.room = network(), room
        self.seen: list[int] = []

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(len(inputs))
            if len(inputs) > self.room:
                raise torch.OutOfMemoryError("no room")
        return self.inner(inputs)


def test_a_batch_that_memory_does_not_hold_is_computed_in_pieces() -> None:
    recipe = Recipe(epochs=64 * 3 / TASK.size("train"), distill=0.5, batch_size=64)
    anchor = guide(1)
    whole, small = network(), Small(room=20)
    small.inner.load_state_dict(whole.state_dict())
    (told,) = train(
        whole, TASK, recipe, 1, GuideActivations(anchor, TASK.sample(64), torch.device("cpu"))
    )
    (pieced,) = train(
        small, TASK, recipe, 1, GuideActivations(anchor, TASK.sample(64), torch.device("cpu"))
    )
    # Halved until it fits, and not tried whole again.
    assert small.seen[:3] == [64, 32, 16] and set(small.seen[2:]) == {16}
    assert (told.pieces, pieced.pieces) == (1, 4)
    assert pieced.loss == pytest.approx(told.loss, rel=1e-5)
    for one, other in zip(whole.parameters(), small.inner.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


def test_no_piece_has_a_single_example_which_batch_norms_refuse() -> None:
    small = Small(room=3)
    recipe = Recipe(epochs=10 / TASK.size("train"), distill=0, batch_size=10)
    list(train(small, TASK, recipe, 1))
    assert small.seen == [10, 5, 3, 3, 2, 2]


def test_without_memory_for_two_examples_training_ends_with_what_to_do() -> None:
    small = Small(room=1)
    recipe = Recipe(epochs=1, distill=0, batch_size=16)
    with pytest.raises(ConversionError, match="with 2 examples at once.*--gpus-per-trial"):
        list(train(small, TASK, recipe, 1))
    assert small.seen == [16, 8, 4, 2]

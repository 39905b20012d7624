"""Task training: learns, follows its seed, distils, and stops where it diverges."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from itertools import pairwise

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
from nas_theseus.tasks.task import Batch

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


def record_rates(monkeypatch: pytest.MonkeyPatch) -> list[list[float]]:
    """The learning rates of every group of parameters, step by step."""
    rates: list[list[float]] = []
    step = torch.optim.AdamW.step

    def recorded(self: torch.optim.AdamW, *given: object) -> object:
        rates.append([float(group["lr"]) for group in self.param_groups])
        return step(self, *given)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    return rates


@pytest.mark.parametrize("steps", [1, 3, 8, 11, 50])
def test_a_budget_in_steps_is_cut_into_up_to_eight_slices(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = record_rates(monkeypatch)
    recipe = Recipe(steps=steps, epochs=99, distill=0, batch_size=64)
    losses = list(train(network(), TASK, recipe, seed=1))
    assert [loss.epoch for loss in losses] == list(range(min(8, steps)))
    marks = [recipe.mark(report) for report in range(len(losses) + 1)]
    assert [loss.examples for loss in losses] == [64 * (b - a) for a, b in pairwise(marks)]
    assert (marks[0], marks[-1], len(rates)) == (0, steps, steps)
    sizes = [b - a for a, b in pairwise(marks)]
    assert max(sizes) - min(sizes) <= 1


def test_steps_go_through_the_data_in_passes_with_an_order_each() -> None:
    seen: list[torch.Tensor] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            seen.append(inputs)
            out: torch.Tensor = self.inner(inputs)
            return out

    a_pass = TASK.size("train") // 64
    list(train(Spy(), TASK, Recipe(steps=a_pass + 3, distill=0, batch_size=64), seed=1))
    wanted = [*batches(1), *batches(2)][: a_pass + 3]
    assert len(seen) == len(wanted)
    assert all(torch.equal(a, b.inputs) for a, b in zip(seen, wanted, strict=True))


def batches(seed: int) -> Iterator[Batch]:
    return TASK.batches("train", 64, seed=seed)


def test_as_many_steps_as_an_epoch_has_train_alike() -> None:
    """Only when the loss is reported differs."""
    first, second = network(), network()
    steps = TASK.size("train") // 64
    list(train(first, TASK, Recipe(epochs=1, distill=0, batch_size=64), seed=1))
    list(train(second, TASK, Recipe(steps=steps, distill=0, batch_size=64), seed=1))
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("steps", [1, 2, 5, 10, 20])
def test_the_learning_rate_peaks_after_its_warm_up_and_falls(
    warmup: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    rates = record_rates(monkeypatch)
    recipe = Recipe(steps=steps, warmup=warmup, distill=0, batch_size=16, learning_rate=1e-3)
    list(train(network(), TASK, recipe, seed=1))
    found = [rate for (rate,) in rates]
    peak = found.index(max(found))
    assert len(found) == steps and max(found) <= 1e-3
    assert abs(peak - max(0, warmup * steps - 1)) <= 1
    assert all(a > b for a, b in pairwise(found[peak:]))
    if warmup == 0:
        assert peak == 0
        # The cosine from the peak to nothing, from its first step on.
        cosine = [(1 + math.cos(math.pi * (i + 1) / steps)) / 2 * 1e-3 for i in range(steps)]
        assert found == pytest.approx(cosine, abs=1e-8)


def test_kept_parameters_have_a_rate_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = record_rates(monkeypatch)
    student = network()
    kept = list(student[3].parameters())  # type: ignore[index]
    recipe = Recipe(steps=10, distill=0, batch_size=64, learning_rate=1e-2, kept_learning_rate=0.1)
    list(train(student, TASK, recipe, 1, kept=kept))
    assert all(slow == pytest.approx(fast / 10) for fast, slow in rates)
    plain, same = network(), network()
    list(train(plain, TASK, Recipe(steps=4, distill=0), 1))
    list(train(same, TASK, Recipe(steps=4, distill=0), 1, kept=list(same.parameters())))
    assert [len(groups) for groups in rates[10:]] == [1] * 8
    pairs = zip(plain.parameters(), same.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def normed(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.BatchNorm1d(16), nn.ReLU())
    return nn.Sequential(hidden, nn.Linear(16, 10))


def test_a_frozen_link_stays_as_it_is_with_its_statistics() -> None:
    student = normed()
    student[0].requires_grad_(False)
    before = copy.deepcopy(student.state_dict())
    list(train(student, TASK, Recipe(steps=3, distill=0, batch_size=64), 1))
    after = student.state_dict()
    same = {name for name in after if torch.equal(after[name], before[name])}
    assert same == {name for name in after if name.startswith("0.")}
    assert not student[0].training and student[1].training


def test_a_network_with_nothing_to_train_is_left_as_it_is() -> None:
    student = normed().requires_grad_(False).eval()
    assert list(train(student, TASK, Recipe(distill=0), 1)) == []
    assert not student.training


@pytest.mark.parametrize("micro_batch", [1, 7, 16, 64, 100])
def test_micro_batches_take_the_same_step(micro_batch: int) -> None:
    whole, pieced = Small(room=64), Small(room=64)
    recipe = Recipe(steps=1, distill=0, batch_size=64)
    (first,) = train(whole, TASK, recipe, 1)
    (second,) = train(pieced, TASK, recipe.model_copy(update={"micro_batch": micro_batch}), 1)
    pieces = -(-64 // micro_batch)
    assert len(pieced.seen) == pieces and sum(pieced.seen) == 64
    assert max(pieced.seen) <= micro_batch and second.pieces == 1
    assert second.loss == pytest.approx(first.loss, rel=1e-5)
    for one, other in zip(whole.parameters(), pieced.parameters(), strict=True):
        assert one.grad is not None and other.grad is not None
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-4, atol=1e-6)


def test_a_micro_batch_that_does_not_fit_is_halved_and_told() -> None:
    small = Small(room=8)
    recipe = Recipe(steps=1, distill=0, batch_size=64, micro_batch=16)
    (told,) = train(small, TASK, recipe, 1)
    assert small.seen == [16, *[8] * 8] and told.pieces == 8


def test_micro_batches_of_one_are_refused_for_batch_norms_before_training() -> None:
    for batch_size, micro_batch in ((8, 1), (3, 2)):
        recipe = Recipe(steps=1, distill=0, batch_size=batch_size, micro_batch=micro_batch)
        with pytest.raises(ConversionError, match=f"micro_batch={micro_batch} leaves single"):
            list(train(normed(), TASK, recipe, 1))
    list(train(normed(), TASK, Recipe(steps=1, distill=0, batch_size=4, micro_batch=2), 1))


@pytest.mark.parametrize("frozen", [False, True])
def test_batch_norms_keep_their_statistics_where_wanted(frozen: bool) -> None:
    network = normed()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    weights = [parameter.clone() for parameter in network.parameters()]
    list(train(network, TASK, Recipe(steps=3, distill=0, freeze_statistics=frozen), 1))
    moved = [not torch.equal(b, before[name]) for name, b in network.named_buffers()]
    assert moved and any(moved) != frozen
    after = network.parameters()
    assert not any(torch.equal(a, b) for a, b in zip(after, weights, strict=True))


def test_scores_between_slices_leave_what_is_frozen_in_eval_mode() -> None:
    network = normed()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    recipe = Recipe(steps=3, distill=0, freeze_statistics=True)
    for _ in train(network, TASK, recipe, 1):
        score(network, TASK, "validation")
    assert network.training
    assert all(torch.equal(buffer, before[name]) for name, buffer in network.named_buffers())


def test_a_guide_is_trained_again_for_what_its_training_depends_on() -> None:
    recipe = Recipe(epochs=1)
    keys = {guide_key(guide(), TASK, recipe)}
    for name, value in {
        "steps": 5, "micro_batch": 4, "warmup": 0.0, "precision": "bfloat16",
        "checkpointing": True, "freeze_statistics": True,
    }.items():  # fmt: skip
        keys.add(guide_key(guide(), TASK, recipe.model_copy(update={name: value})))
    assert len(keys) == 7
    for name, value in {"hidden": 1.0, "freeze_kept": True, "settle_steps": 3}.items():
        assert guide_key(guide(), TASK, recipe.model_copy(update={name: value})) in keys

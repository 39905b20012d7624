"""Divergence with one block replaced: against whole networks, in chunks, for all outputs."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus import block, cut
from nas_theseus.conversion import divergence
from nas_theseus.conversion.divergence import ReplaceOne
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import Task, diabetes, digit_masks, digits, text_file
from nas_theseus.values.architecture import Boundary, Span

CPU = torch.device("cpu")


def text(folder: Path) -> Task:
    path = folder / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 200)
    return text_file(path, context=16)


def token_guide(task: Task) -> Guide:
    torch.manual_seed(0)
    vocabulary = task.outputs.shape[1]
    parts = {
        "embed": nn.Embedding(vocabulary, 12),
        "first": nn.Sequential(nn.Linear(12, 12), nn.ReLU()),
        "second": nn.Sequential(nn.Linear(12, 12), nn.Tanh()),
        "head": nn.Linear(12, vocabulary),
    }
    return Guide(list(parts.items()), task.inlet)


def directly(guide: Guide, task: Task, made: nn.Module, index: int, count: int) -> Tensor:
    """The task's distillation of the whole network with the block, and the guide, in one piece."""
    (batch,) = task.batches("validation", count, seed=0, limit=count)
    features = batch.inputs
    with torch.no_grad():
        for number, part in enumerate(guide.parts):
            features = (made if number == index else part)(features)
        return task.distillation(features, guide(batch.inputs), 1.0)


@pytest.mark.parametrize("output_bytes", [0, 1 << 30], ids=["computed again", "kept"])
def test_tokens_in_chunks_are_as_in_one_piece(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output_bytes: int
) -> None:
    task = text(tmp_path)
    guide = token_guide(task)
    example_bytes = 4 * math.prod(task.outputs.shape)
    monkeypatch.setattr(divergence, "CHUNK_BYTES", 3 * example_bytes)
    replacing = ReplaceOne(guide, task, 20, CPU, output_bytes=output_bytes)
    assert replacing.count == 20  # six chunks of three, and one of two
    made = nn.Linear(12, 12)
    found = replacing.divergence(made, Span(1, 2))
    assert found == pytest.approx(float(directly(guide, task, made, 1, 20)), rel=1e-4)
    head, behind = 16 * 12 * task.outputs.shape[1], 16 * 12 * 12
    passes = 2 if output_bytes == 0 else 1
    assert replacing.macs(Span(1, 2), 7) == 20 * (7 + behind + passes * head)


def numbers() -> tuple[Guide, Task]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))
    return cut(net, ["0", "1"], (10,)), diabetes()


def masks() -> tuple[Guide, Task]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(1, 8, 3, 1, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 11, 1))
    return cut(net, ["0", "1"], (1, 8, 8)), digit_masks()


@pytest.mark.parametrize("make", [numbers, masks])
def test_other_outputs_are_compared_by_the_task_s_own_distillation(make: object) -> None:
    assert callable(make)
    guide, task = make()
    replacing = ReplaceOne(guide, task, 30, CPU)
    made = nn.Dropout(0.5).eval() if guide.boundaries[1].kind == "vector" else nn.ReLU()
    found = replacing.divergence(made, Span(1, 2))
    assert found == pytest.approx(float(directly(guide, task, made, 1, 30)), rel=1e-4)
    assert found > 0


def test_the_guide_s_own_parts_have_none_whatever_the_span(tmp_path: Path) -> None:
    task = text(tmp_path)
    guide = token_guide(task)
    replacing = ReplaceOne(guide, task, 20, CPU)
    for start in range(len(guide)):
        for stop in range(start + 1, len(guide) + 1):
            own = nn.Sequential(*guide.parts[start:stop])
            assert replacing.divergence(own, Span(start, stop)) < 1e-7


def test_a_block_that_works_in_place_leaves_the_activations_as_they_are(tmp_path: Path) -> None:
    task = text(tmp_path)
    replacing = ReplaceOne(token_guide(task), task, 20, CPU)
    before = replacing.at(1).clone()
    assert (before < 0).any()
    replacing.divergence(nn.ReLU(inplace=True), Span(1, 2))
    assert torch.equal(replacing.at(1), before)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * float("nan")


def test_outputs_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    task = text(tmp_path)
    replacing = ReplaceOne(token_guide(task), task, 4, CPU)
    with pytest.raises(ConversionError, match="in the place of parts 1, .* not finite"):
        replacing.divergence(Broken(), Span(1, 2))


def test_the_number_of_examples_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    task = digits()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    guide = cut(net, ["0"], (1, 8, 8))
    size = task.size("validation")
    assert ReplaceOne(guide, task, 10 * size, CPU).count == size
    monkeypatch.setattr(divergence, "ACTIVATION_BYTES", 5 * 4 * (64 + 64))
    assert ReplaceOne(guide, task, size, CPU).count == 5
    monkeypatch.undo()
    monkeypatch.setattr(divergence, "POSITIONS", 4 * 16)
    words = text(tmp_path)
    assert ReplaceOne(token_guide(words), words, 100, CPU).count == 4


def test_what_the_guide_computes_is_shared(tmp_path: Path) -> None:
    task = text(tmp_path)
    first = ReplaceOne(token_guide(task), task, 20, CPU, tmp_path / "work")
    made = nn.Linear(12, 12)
    wanted = first.divergence(made, Span(1, 2))
    files = sorted(path.name for path in (tmp_path / "work").glob("*.npy"))
    assert [name.partition("-")[2] for name in files] == ["boundary-1.npy", "boundary-4.npy"]
    guide = token_guide(task)

    def forbid(*_: object) -> None:
        raise AssertionError("computed again")

    guide.parts[0].register_forward_hook(forbid)
    second = ReplaceOne(guide, task, 20, CPU, tmp_path / "work")
    assert second.divergence(made, Span(1, 2)) == wanted


class Stream(nn.Module):
    """Adds to a stream whose first channel is huge, and which the head does not read."""

    def __init__(self, miss: float = 0.0) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, 64, generator=generator) / 8)
        self.miss = miss

    def forward(self, x: Tensor) -> Tensor:
        added = x[:, 1:] + torch.tanh(x[:, 1:] @ self.weight[1:, 1:])
        return torch.cat([x[:, :1] * (1 - self.miss), added], dim=1)


class Huge(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        x = x.flatten(1)
        return torch.cat([1e4 * x[:, 20:21], x[:, 1:]], dim=1)


def test_it_ranks_where_one_huge_activation_misleads_the_residual() -> None:
    """Leaving the part out is a tiny error of the boundary; missing what nobody reads a large one.

    As in language models, whose streams have a few huge activations from some layer on.
    """
    torch.manual_seed(0)
    head = nn.Linear(64, 10)
    with torch.no_grad():
        head.weight[:, 0] = 0
    parts = [("huge", Huge()), ("stream", Stream()), ("head", head)]
    task = digits()
    replacing = ReplaceOne(Guide(parts, Boundary((1, 8, 8))), task, 100, CPU)
    left_out, harmless = nn.Identity(), Stream(miss=0.02)

    def residual(made: nn.Module) -> float:
        goal = replacing.at(2)
        with torch.no_grad():
            missed = (made(replacing.at(1)) - goal).square().sum()
        return float(missed / (goal - goal.mean(0)).square().sum())

    def diverges(made: nn.Module) -> float:
        return replacing.divergence(made, Span(1, 2))

    assert residual(left_out) < 0.01 * residual(harmless)
    assert diverges(harmless) < 1e-6 < 1e-3 < diverges(left_out)


def test_custom_blocks_are_measured_like_any(tmp_path: Path) -> None:
    task = text(tmp_path)
    guide = token_guide(task)
    family = block(lambda inlet, outlet: nn.Linear(inlet.width, outlet.width), name="own")
    made = family.build(guide.boundaries[1], guide.boundaries[2], {})
    found = ReplaceOne(guide, task, 20, CPU).divergence(made, Span(1, 2))
    assert found == pytest.approx(float(directly(guide, task, made, 1, 20)), rel=1e-4)

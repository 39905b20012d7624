"""What a guide makes of a sample is computed once, whoever asks, and never lost to a full disk."""

from __future__ import annotations

import logging
import multiprocessing
import time
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.conversion import guide_work
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.guide_work import GuideWork
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import digits

CPU = torch.device("cpu")


class Counting(nn.Module):
    """A linear layer that counts the examples it has seen."""

    def __init__(self, inlet: int, outlet: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inlet, outlet)
        self.seen = 0

    def forward(self, x: Tensor) -> Tensor:
        object.__setattr__(self, "seen", self.seen + len(x))
        out: Tensor = self.linear(x.flatten(1))
        return out


def make_guide(seed: int = 0) -> Guide:
    torch.manual_seed(seed)
    guide = Guide([("first", Counting(64, 6)), ("last", Counting(6, 10))], (1, 8, 8))
    for part in guide.parts:
        part.seen = 0
    return guide


SAMPLE = digits().sample(40)


def activations(guide: Guide, folder: Path | None, sample: Tensor = SAMPLE) -> GuideActivations:
    return GuideActivations(guide, sample, CPU, folder=folder)


def seen(guide: Guide) -> list[int]:
    return [int(part.seen) for part in guide.parts]  # type: ignore[arg-type]


def test_a_second_reader_computes_nothing_and_gets_the_same_bits(tmp_path: Path) -> None:
    first, second, alone = make_guide(), make_guide(), make_guide()
    made = activations(first, tmp_path)
    wanted = made.at(2), made.logits(digits())
    assert seen(first) != [0, 0]
    found = activations(second, tmp_path)
    got = found.at(2), found.logits(digits())
    assert seen(second) == [0, 0]
    plain = activations(alone, None)
    for one, other, own in zip(wanted, got, (plain.at(2), plain.logits(digits())), strict=True):
        assert torch.equal(one, other) and torch.equal(one, own)


def test_what_is_read_is_aligned_as_torch_s_own_memory_and_writing_to_it_changes_no_file(
    tmp_path: Path,
) -> None:
    activations(make_guide(), tmp_path).at(1)
    found = activations(make_guide(), tmp_path).at(1)
    assert found.data_ptr() % 64 == 0
    before = found.clone()
    found.zero_()
    assert torch.equal(activations(make_guide(), tmp_path).at(1), before)


@pytest.mark.parametrize("change", ["weights", "sample", "code", "shorter"])
def test_another_guide_or_sample_reads_nothing_of_it(tmp_path: Path, change: str) -> None:
    activations(make_guide(), tmp_path).at(1)
    guide, sample = make_guide(seed=change == "weights"), SAMPLE
    if change == "sample":
        sample = SAMPLE.flip(0)
    if change == "shorter":
        sample = SAMPLE[:20]
    if change == "code":
        guide.parts[0].scale = 2.0  # type: ignore[assignment]
    activations(guide, tmp_path, sample).at(1)
    assert seen(guide)[0] == len(sample)


def test_a_file_that_is_cut_off_is_made_again(tmp_path: Path) -> None:
    wanted = activations(make_guide(), tmp_path).at(1).clone()
    (path,) = tmp_path.glob("*.npy")
    for content in (path.read_bytes()[:-16], b"", b"\x00" * 200):
        path.write_bytes(content)
        guide = make_guide()
        assert torch.equal(activations(guide, tmp_path).at(1), wanted)
        assert seen(guide) == [40, 0]
    guide = make_guide()
    assert torch.equal(activations(guide, tmp_path).at(1), wanted) and seen(guide) == [0, 0]


def test_a_folder_that_cannot_be_written_costs_time_and_a_warning_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("in the way")
    guide = make_guide()
    with caplog.at_level(logging.WARNING):
        found = activations(guide, tmp_path / "file").at(1)
    assert torch.equal(found, activations(make_guide(), None).at(1)) and seen(guide) == [40, 0]
    assert "boundary-1 cannot be saved in" in caplog.text


def test_old_files_make_room_and_what_is_too_large_is_not_kept(tmp_path: Path) -> None:
    work = GuideWork(tmp_path, make_guide(), SAMPLE, CPU, limit_bytes=10_000)

    def made(value: float, size: int) -> Tensor:
        return work.get(f"t{value:.0f}", lambda: torch.full((size,), value))

    for value in range(4):
        made(float(value), 700)  # 2,928 bytes each with the header
    names = sorted(path.name.rsplit("-", 1)[1] for path in tmp_path.glob("*.npy"))
    assert names == ["t1.npy", "t2.npy", "t3.npy"]
    assert len(made(9.0, 5_000)) == 5_000
    assert sorted(path.name.rsplit("-", 1)[1] for path in tmp_path.glob("*.npy")) == names


def ask(folder: Path, counted: Path, together: Barrier) -> None:
    work = GuideWork(folder, make_guide(), SAMPLE, CPU)

    def compute() -> Tensor:
        with counted.open("a") as file:
            file.write("computed\n")
        time.sleep(1)  # the others are here before it ends
        return torch.ones(3)

    together.wait(120)
    assert torch.equal(work.get("t", compute), torch.ones(3))


def test_processes_that_ask_at_once_compute_it_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    together, counted = context.Barrier(3), tmp_path / "counted"
    arguments = (tmp_path / "work", counted, together)
    processes = [context.Process(target=ask, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
        assert process.exitcode == 0
    assert counted.read_text() == "computed\n"


def test_flipped_bits_are_noticed_by_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = activations(make_guide(), tmp_path).at(1).clone()
    (path,) = tmp_path.glob("*.npy")
    flipped = bytearray(path.read_bytes())
    flipped[-20] ^= 4
    path.write_bytes(bytes(flipped))
    monkeypatch.setattr(guide_work, "_VERIFIED", set())
    guide = make_guide()
    assert torch.equal(activations(guide, tmp_path).at(1), wanted)
    assert seen(guide) == [40, 0]
    # A file of an earlier version has no checksum.
    path.write_bytes(path.read_bytes()[:-9])
    monkeypatch.setattr(guide_work, "_VERIFIED", set())
    guide = make_guide()
    assert torch.equal(activations(guide, tmp_path).at(1), wanted) and seen(guide) == [0, 0]

"""Activations that do not fit are refused beforehand, with what would fit."""

from __future__ import annotations

import shutil
from collections import namedtuple
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_theseus.conversion import room
from nas_theseus.conversion.room import disk_room_bytes, free_memory_bytes, require_room
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.values.architecture import Boundary

MB = 1_000_000
Usage = namedtuple("Usage", "total used free")


def language_model(layers: int = 60) -> Guide:
    """Boundaries of a small language model: ids, states of width 8, logits over 1,000 tokens."""
    torch.manual_seed(0)
    parts: list[tuple[str, nn.Module]] = [("embed", nn.Embedding(1000, 8))]
    parts += [(str(i), nn.Identity()) for i in range(layers)]
    return Guide([*parts, ("head", nn.Linear(8, 1000))], Boundary((10,), integer=True))


GUIDE = language_model()
STATES = 61 * 10 * 8 * 2  # bytes of an example, without the logits
USED = 16 * 10 * 8  # four float32 copies of one boundary


def disk(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, free))


def test_in_memory_the_limit_and_what_is_free_count() -> None:
    require_room(GUIDE, 1000, 1000 * STATES, 1000 * (STATES + USED), last=61)
    for limit, free in ((1000 * STATES - 1, 1 << 40), (1 << 40, 1000 * (STATES + USED) - 1)):
        with pytest.raises(ConversionError, match="999 examples would fit: set align_examples"):
            require_room(GUIDE, 1000, limit, free, last=61)


def test_outputs_count_only_if_a_block_makes_them() -> None:
    require_room(GUIDE, 1000, 10 * MB, 1 << 40, last=61)
    with pytest.raises(ConversionError, match="1,000 examples at 62 boundaries take 29.76 MB"):
        require_room(GUIDE, 1000, 10 * MB, 1 << 40)
    require_room(GUIDE, 1000, 0, 0, last=0)  # every block keeps its part


def test_a_folder_holds_what_memory_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "not" / "there" / "yet"
    disk(monkeypatch, 1000 * STATES)
    require_room(GUIDE, 1000, 1000, 1000 * USED, folder, last=61)
    disk(monkeypatch, 400 * STATES)
    with pytest.raises(ConversionError, match="3.90 MB in .*yet. 400 examples would fit"):
        require_room(GUIDE, 1000, 1000, 1000 * USED, folder, last=61)
    # The boundary in use has to be in memory anyway.
    disk(monkeypatch, 1000 * STATES)
    with pytest.raises(ConversionError, match="there are 0.01 MB in memory.* 5 examples would fit"):
        require_room(GUIDE, 1000, 1 << 40, 5 * USED, folder, last=61)


def test_files_that_are_there_and_the_folder_s_own_limit_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.npy").write_bytes(bytes(300))
    disk(monkeypatch, 1000)
    assert disk_room_bytes(tmp_path) == 1300
    disk(monkeypatch, 1 << 50)
    assert disk_room_bytes(tmp_path) == 8 << 30


def test_sixty_boundaries_of_a_language_model_fit_as_bfloat16() -> None:
    """60 × 16,384 tokens × 576 in the default 2 GiB, where float32 does not fit."""
    torch.manual_seed(0)
    guide = Guide([(str(i), nn.Identity()) for i in range(60)], Boundary((128, 576)))
    require_room(guide, 128, 2 << 30, 8 << 30)
    assert 60 * 16_384 * 576 * 4 > 2 << 30
    with pytest.raises(ConversionError, match="242 examples would fit"):
        require_room(guide, 256, 2 << 30, 8 << 30)


def test_free_memory_is_what_the_system_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = tmp_path / "meminfo"
    told.write_text("MemTotal: 99 kB\nMemFree: 3 kB\nMemAvailable:   7 kB\n")
    monkeypatch.setattr(room, "_MEMINFO", told)
    assert free_memory_bytes(torch.device("cpu")) == 7 * 1024
    monkeypatch.setattr(room, "_MEMINFO", tmp_path / "none")
    assert free_memory_bytes(torch.device("cpu")) > 1 << 28

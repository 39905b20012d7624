"""Folders of images: layout, splits, hash and damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_theseus.errors import DataError
from nas_theseus.tasks.images import ImageTask, image_folder
from nas_theseus.tasks.task import SPLITS


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes told apart by colour; 10 training and 3 test images each."""
    for part, count in (("train", 10), ("val", 3)):
        for label, name in enumerate(("cat", "dog")):
            folder = tmp_path / part / name
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.zeros((12 + number, 16, 3), np.uint8)
                pixels[..., label] = 200 + number
                Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def task_of(root: Path, workers: int = 0, seed: int = 0) -> ImageTask:
    return image_folder(root, size=8, validation_share=0.2, workers=workers, seed=seed)


def test_splits_sizes_and_pixels(root: Path) -> None:
    task = task_of(root)
    assert task.outputs.shape == (2,)
    assert task.inlet.shape == (3, 8, 8)
    assert [task.size(split) for split in SPLITS] == [16, 4, 6]
    files = [{path for path, _ in task.splits.of(split).files} for split in SPLITS]  # type: ignore[attr-defined]
    assert set.union(*files) == {str(path) for path in root.rglob("*.png")}
    assert sum(map(len, files)) == 26
    assert all("/train/" in path for path in files[0] | files[1])
    for inputs, targets, _ in task.batches("train", 4, seed=1):
        assert inputs.shape == (4, 3, 8, 8)
        # ImageNet's constants undone: the channel of the label's colour is 200 or more.
        pixels = inputs * torch.tensor([58.395, 57.12, 57.375]).reshape(3, 1, 1)
        pixels += torch.tensor([123.675, 116.28, 103.53]).reshape(3, 1, 1)
        assert torch.equal(pixels.mean((2, 3)).argmax(1), targets)
        assert (pixels.amax((1, 2, 3)) >= 199.9).all()


def test_worker_processes_give_the_same_batches(root: Path) -> None:
    alone, helped = task_of(root), task_of(root, workers=2)
    pairs = zip(alone.batches("train", 8, seed=3), helped.batches("train", 8, seed=3), strict=True)
    for (inputs, targets, _), (other_inputs, other_targets, _) in pairs:
        assert torch.equal(inputs, other_inputs)
        assert torch.equal(targets, other_targets)


def test_limited_looks_see_both_classes(root: Path) -> None:
    (_, targets, _), *_ = task_of(root).batches("train", 16)
    assert 0 < targets[:8].sum() < 8


def test_hash_follows_content_but_not_the_place(
    root: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    before = task_of(root).data_hash()
    moved = tmp_path_factory.mktemp("elsewhere") / "copy"
    shutil.copytree(root, moved)
    assert task_of(moved).data_hash() == before
    assert task_of(root, seed=1).data_hash() != before
    path = moved / "train" / "cat" / "4.png"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert task_of(moved).data_hash() != before


def test_missing_folders_are_told(root: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DataError, match=r"there is no folder .*train"):
        _ = task_of(empty).outputs
    (empty / "train").mkdir()
    with pytest.raises(DataError, match="train is empty"):
        _ = task_of(empty).outputs
    (root / "val" / "cow").mkdir()
    with pytest.raises(DataError, match="only one has cow"):
        task_of(root).size("train")
    shutil.rmtree(root / "val")
    with pytest.raises(DataError, match="neither a test nor a val folder"):
        task_of(root).size("train")


def test_classes_without_images_and_broken_images_are_told(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"dog/\d\.png is not a readable image"):
        list(task_of(root).batches("train", 4))
    for path in (root / "train" / "dog").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="class without images"):
        task_of(root).size("train")

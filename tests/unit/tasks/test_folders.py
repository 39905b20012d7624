"""Folders of images: layout, splits, hash and damaged files."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nas_theseus.errors import DataError
from nas_theseus.tasks import ImageTask, Preprocessing, image_folder, picture_files
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
    Image.new("RGB", (8, 8)).save(root / "val" / "cow" / "0.png")
    with pytest.raises(DataError, match="only one has pictures of cow"):
        task_of(root).size("train")
    shutil.rmtree(root / "val")
    with pytest.raises(DataError, match="neither a test nor a val folder"):
        task_of(root).size("train")


def test_hidden_and_empty_folders_are_ignored(root: Path) -> None:
    before = task_of(root).data_hash()
    for part in ("train", "val"):
        for name in (".cache", ".cache/deep", "cow", "cow/calf"):
            (root / part / name).mkdir()
        shutil.copy(root / part / "cat" / "0.png", root / part / ".cache" / "deep" / "0.png")
        shutil.copy(root / part / "cat" / "0.png", root / part / "cat" / ".0.png")
        (root / part / "cat" / ".thumbnails").mkdir()
        shutil.copy(root / part / "cat" / "0.png", root / part / "cat" / ".thumbnails" / "0.png")
        (root / part / "cow" / "notes.txt").write_text("no picture")
    task = task_of(root)
    assert task.outputs.shape == (2,)
    assert [task.size(split) for split in SPLITS] == [16, 4, 6]
    assert task.data_hash() == before


def test_too_many_broken_images_are_refused_by_name(root: Path) -> None:
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"not an image")
    said = (
        r"10 of 20 pictures cannot be read, more than the 1% .*dog/0\.png is not a readable image"
    )
    with pytest.raises(DataError, match=said + r".*; and 5 more$"):
        list(task_of(root).batches("train", 4))


def test_few_broken_images_are_reported_and_left_out(root: Path) -> None:
    (root / "train" / "dog" / "3.png").write_bytes(b"not an image")
    content = (root / "train" / "cat" / "7.png").read_bytes()
    (root / "train" / "cat" / "7.png").write_bytes(content[: len(content) // 2])
    task = image_folder(root, size=8, validation_share=0.2, workers=0, unreadable=0.1)
    with pytest.warns(UserWarning, match=r"2 of 20 pictures cannot be read and are left out: .*7"):
        assert [task.size(split) for split in SPLITS] == [14, 4, 6]
    names = {path for split in SPLITS for path, _ in task.splits.of(split).files}  # type: ignore[attr-defined]
    assert len(names) == 24
    assert not {path for path in names if path.endswith(("train/dog/3.png", "train/cat/7.png"))}
    with pytest.raises(DataError, match="unreadable is a share from 0 to below 1, not 1"):
        image_folder(root, unreadable=1)


def test_pictures_that_are_not_kept_in_memory_are_the_same(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = task_of(root)
    assert kept.size("train") == 16
    monkeypatch.setattr(picture_files, "MOST_BYTES_KEPT", 0)
    read = task_of(root)
    for one, other in zip(
        kept.batches("train", 8, seed=3), read.batches("train", 8, seed=3), strict=True
    ):
        assert torch.equal(one.inputs, other.inputs)
        assert torch.equal(one.targets, other.targets)
        assert one.index is not None and other.index is None
    assert kept.data_hash() == read.data_hash()


def test_of_many_pictures_some_are_tried_and_the_next_one_stands_in(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_files, "MOST_BYTES_KEPT", 0)
    monkeypatch.setattr(picture_files, "_MOST_TRIED", 4)
    broken = root / "train" / "cat" / "3.png"  # every fifth is tried
    broken.write_bytes(b"not an image")
    task = task_of(root)
    assert task.size("train") == 16
    files = task.splits.train.files + task.splits.validation.files  # type: ignore[attr-defined]
    assert str(broken) in {path for path, _ in files}
    batches = [*task.batches("train", 4), *task.batches("validation", 4)]
    assert sum(len(batch.inputs) for batch in batches) == 20
    for path in (root / "train" / "dog").iterdir():
        path.write_bytes(b"not an image")
    with pytest.raises(DataError, match="2 of 4 tried of 20 pictures cannot be read, more than"):
        task_of(root).size("train")
    monkeypatch.setattr(picture_files, "_MOST_STAND_INS", 1)
    with pytest.raises(DataError, match="not a readable image.*the 0 pictures after"):
        list(task.batches("train", 4))


def test_another_preprocessing_gives_other_inputs_and_another_hash(root: Path) -> None:
    grey = Preprocessing(8, 8, (0.5,), (0.25,), "bicubic", squash=True)
    task = image_folder(root, validation_share=0.2, workers=0, preprocessing=grey)
    assert task.inlet.shape == (1, 8, 8)
    files = task.splits.train.files  # type: ignore[attr-defined]
    batch = next(task.batches("train", 1))
    with Image.open(files[0][0]) as image:
        squashed = image.convert("L").resize((8, 8), Image.Resampling.BICUBIC)
    expected = (np.asarray(squashed) / 255 - 0.5) / 0.25
    assert np.allclose(batch.inputs[0, 0], expected, atol=1e-3)
    assert task.data_hash() != task_of(root).data_hash()
    usual = image_folder(root, size=8, validation_share=0.2, preprocessing=Preprocessing(16, 18))
    assert usual.data_hash() == task_of(root).data_hash()  # 9 is resized to, either way


def test_wrong_preprocessing_is_refused() -> None:
    for options, said in (
        ({"size": 0, "resize": 8}, "size must be above 0"),
        ({"size": 9, "resize": 8}, "at most resize, not 9 and 8"),
        ({"size": 8, "resize": 8, "std": (0.1, 0.0, 0.1)}, "std must be above 0"),
        ({"size": 8, "resize": 8, "mean": (0.1,)}, "must both have three numbers"),
        ({"size": 8, "resize": 8, "interpolation": "cubic"}, "bilinear or bicubic or .*'cubic'"),
    ):
        with pytest.raises(DataError, match=said):
            Preprocessing(**options)  # type: ignore[arg-type]

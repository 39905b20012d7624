"""Image tasks on real data: splits, orders, hashes and everything that can be wrong with data."""

from __future__ import annotations

import gzip
import math
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import TensorDataset

from nas_theseus.errors import DataError, ShapeError
from nas_theseus.tasks.images import (
    DEBIAN_FASHION_MNIST,
    ImageTask,
    digits,
    fashion_mnist,
    from_datasets,
)
from nas_theseus.tasks.task import SPLITS, Task

needs_fashion_mnist = pytest.mark.skipif(
    not DEBIAN_FASHION_MNIST.is_dir(),
    reason="the Debian package dataset-fashion-mnist is not installed",
)


def everything(task: Task, split: str) -> tuple[Tensor, Tensor]:
    batches = list(task.batches(split, 500))  # type: ignore[arg-type]
    return torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])


def write_idx(path: Path, values: np.ndarray, code: int = 8) -> None:
    header = bytes([0, 0, code, values.ndim]) + struct.pack(f">{values.ndim}I", *values.shape)
    path.write_bytes(gzip.compress(header + values.astype(np.uint8).tobytes()))


def write_fashion(folder: Path, train: int = 60, test: int = 20) -> None:
    random = np.random.RandomState(0)
    for stem, count in (("train", train), ("t10k", test)):
        images = random.randint(0, 256, (count, 28, 28))
        write_idx(folder / f"{stem}-images-idx3-ubyte.gz", images)
        write_idx(folder / f"{stem}-labels-idx1-ubyte.gz", np.arange(count) % 10)


def numbered(count: int, start: int = 0) -> TensorDataset:
    """Images whose pixels tell their number, so that each can be followed."""
    numbers = torch.arange(start, start + count)
    return TensorDataset(numbers.float().reshape(-1, 1, 1, 1).expand(-1, 1, 2, 2), numbers % 3)


def numbers_of(task: Task, split: str, **options: int) -> list[int]:
    batches = task.batches(split, 4, **options)  # type: ignore[arg-type]
    return [int(value) for batch in batches for value in batch.inputs[:, 0, 0, 0]]


def numbered_task(seed: int = 0) -> ImageTask:
    return from_datasets(
        numbered(50), numbered(20, start=100), inlet=(1, 2, 2), classes=3, seed=seed
    )


def test_digits_are_split_completely_and_standardised() -> None:
    task: Task = digits()
    assert [task.size(split) for split in SPLITS] == [1077, 360, 360]
    # Undo the standardisation: every image of scikit-learn's must be there exactly once.
    given = load_digits().images.astype(int)
    inputs = torch.cat([everything(task, split)[0] for split in SPLITS])
    training = everything(task, "train")[0]
    assert training.mean().abs() < 1e-5
    assert training.std(correction=0) == pytest.approx(1, abs=1e-5)
    values = torch.unique(inputs)
    assert len(values) == 17
    restored = torch.searchsorted(values, inputs).squeeze(1).numpy()
    assert sorted(map(bytes, restored.astype(np.int8))) == sorted(map(bytes, given.astype(np.int8)))


def test_digits_are_stratified() -> None:
    task = digits()
    shares = [
        torch.bincount(everything(task, split)[1], minlength=10) / task.size(split)
        for split in SPLITS
    ]
    assert all((share - shares[0]).abs().max() < 0.005 for share in shares[1:])


def test_constructing_reads_nothing(tmp_path: Path) -> None:
    task = fashion_mnist(tmp_path / "nowhere")
    assert task.inlet.shape == (1, 32, 32)
    assert task.outputs.shape == (10,)
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        task.size("train")


def test_splits_of_a_data_set_are_disjoint_and_complete() -> None:
    task = numbered_task()
    train, validation, test = (numbers_of(task, split) for split in SPLITS)
    assert sorted(train + validation) == list(range(50))
    assert len(validation) == 5
    assert sorted(test) == list(range(100, 120))


def test_no_test_example_comes_through_training_or_validation_in_any_order() -> None:
    task = numbered_task()
    for seed in (None, 0, 1, 2**40):
        options = {} if seed is None else {"seed": seed}
        for split in ("train", "validation"):
            assert max(numbers_of(task, split, **options)) < 50


def test_same_seed_same_order_other_seed_other_order() -> None:
    task = numbered_task()
    assert numbers_of(task, "train", seed=3) == numbers_of(numbered_task(), "train", seed=3)
    assert numbers_of(task, "train", seed=3) != numbers_of(task, "train", seed=4)
    assert numbers_of(task, "train") == numbers_of(task, "train")
    assert numbers_of(task, "validation") != numbers_of(numbered_task(seed=1), "validation")


def test_short_last_batches_and_limits() -> None:
    task = numbered_task()
    assert [len(batch.targets) for batch in task.batches("train", 10)] == [10, 10, 10, 10, 5]
    assert [len(batch.targets) for batch in task.batches("train", 10, seed=0)] == [10] * 4
    assert [len(batch.targets) for batch in task.batches("test", 8, seed=0)] == [8, 8, 4]
    assert [len(batch.targets) for batch in task.batches("train", 10, limit=25)] == [10, 10, 5]
    # Nothing to train on at all would be worse than a short batch.
    assert [len(batch.targets) for batch in task.batches("train", 100, seed=0)] == [45]


def test_batches_tell_where_their_examples_are_in_the_split() -> None:
    task = numbered_task()
    inputs, targets = everything(task, "train")
    for batch in task.batches("train", 10, seed=4):
        assert batch.index is not None
        assert torch.equal(inputs[batch.index], batch.inputs)
        assert torch.equal(targets[batch.index], batch.targets)


def test_samples_are_the_beginning_of_the_training_split() -> None:
    task = numbered_task()
    assert task.sample(7).shape == (7, 1, 2, 2)
    assert task.sample(45)[:, 0, 0, 0].tolist() == numbers_of(task, "train")
    assert torch.equal(task.sample(30)[:7], task.sample(7))
    with pytest.raises(DataError, match="46 training inputs, it has 45"):
        task.sample(46)


def test_data_hash_follows_data_and_split() -> None:
    task = numbered_task()
    assert task.data_hash() == numbered_task().data_hash()
    assert task.data_hash() != numbered_task(seed=1).data_hash()
    changed = numbered(50)
    changed.tensors = (changed.tensors[0], changed.tensors[1].clone())
    changed.tensors[1][13] = 0
    other = from_datasets(changed, numbered(20, 100), inlet=(1, 2, 2), classes=3)
    assert task.data_hash() != other.data_hash()


def test_pickling_leaves_the_data_behind() -> None:
    task = digits()
    empty = len(pickle.dumps(task))
    task.data_hash()
    assert len(pickle.dumps(task)) == empty
    assert pickle.loads(pickle.dumps(task)).data_hash() == task.data_hash()


def test_images_come_as_pil_or_bytes_and_are_standardised_per_channel() -> None:
    random = np.random.RandomState(0)
    pixels = random.randint(0, 256, (40, 6, 6, 3)).astype(np.uint8)
    pictures = [(Image.fromarray(one), index % 2) for index, one in enumerate(pixels)]
    tensors = [(torch.from_numpy(one).permute(2, 0, 1), i % 2) for i, one in enumerate(pixels)]
    one = from_datasets(pictures, pictures[:5], inlet=(3, 6, 6), classes=2)
    other = from_datasets(tensors, tensors[:5], inlet=(3, 6, 6), classes=2)
    assert one.data_hash() == other.data_hash()
    training = everything(one, "train")[0]
    assert torch.allclose(training.mean((0, 2, 3)), torch.zeros(3), atol=1e-4)
    assert torch.allclose(training.std((0, 2, 3), correction=0), torch.ones(3), atol=1e-4)


def test_loss_and_accuracy_against_their_definitions() -> None:
    task = digits(label_smoothing=0.2)
    outputs = torch.randn(6, 10, generator=torch.Generator().manual_seed(0))
    targets = torch.tensor([0, 1, 2, 3, 4, 5])
    logs = outputs.log_softmax(1)
    wanted = torch.full((6, 10), 0.02)
    wanted[range(6), targets] += 0.8
    assert task.loss(outputs, targets) == pytest.approx(float(-(wanted * logs).sum(1).mean()))
    outputs[[0, 1, 2], targets[:3]] = 100
    outputs[[3, 4, 5], targets[3:]] = -100
    meter = task.meter()
    meter.update(outputs, targets)
    assert float(meter.compute()) == 0.5
    with pytest.raises(ShapeError, match=r"\(6, 9\), expected \(6, 10\)"):
        task.loss(outputs[:, :9], targets)
    with pytest.raises(ShapeError, match=r"\(6, 9\), expected \(6, 10\)"):
        meter.update(outputs[:, :9], targets)


def test_augmented_batches_are_shifts_and_flips_drawn_by_the_seed() -> None:
    plain, varied = digits(), digits(augment="flip-crop")
    assert plain.data_hash() == varied.data_hash()
    originals, targets, order = next(plain.batches("train", 200, seed=2))
    first, same_targets, index = next(varied.batches("train", 200, seed=2))
    again, *_ = next(varied.batches("train", 200, seed=2))
    assert torch.equal(first, again)
    assert torch.equal(targets, same_targets)
    assert index is None
    assert torch.equal(plain.sample(1077)[order], originals)
    assert not torch.equal(first, originals)
    padded = torch.nn.functional.pad(originals, [1] * 4, mode="replicate")
    seen = set()
    for index in range(200):
        shifts = {
            (top, left, flip): window.flip(-1) if flip else window
            for top in range(3)
            for left in range(3)
            for flip in (False, True)
            for window in [padded[index, :, top : top + 8, left : left + 8]]
        }
        found = [key for key, window in shifts.items() if torch.equal(window, first[index])]
        assert found
        seen.update(found)
    assert len(seen) == 18
    for split in ("validation", "test"):
        unvaried = zip(
            plain.batches(split, 50, seed=1), varied.batches(split, 50, seed=1), strict=True
        )
        assert all(torch.equal(one.inputs, other.inputs) for one, other in unvaried)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: digits(augment="cutout"), "'randaugment', not 'cutout'"),  # type: ignore[arg-type]
        (lambda: digits(label_smoothing=1.0), r"\[0, 1\), not 1.0"),
        (lambda: fashion_mnist(pad=-1), "pad is 0 or more"),
        (lambda: fashion_mnist(train_images=0), "must be at least 1"),
        (lambda: from_datasets([], [], validation_share=1.0), "between 0 and 1, not 1.0"),
    ],
)
def test_impossible_settings_are_refused_at_once(make: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        make()  # type: ignore[operator]


def test_unknown_splits_and_empty_batches_are_refused() -> None:
    task = numbered_task()
    with pytest.raises(DataError, match="'val'; available: train, validation, test"):
        task.size("val")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="batch_size must be at least 1, not 0"):
        task.batches("train", 0)
    with pytest.raises(DataError, match="limit must be at least 1, not -1"):
        task.batches("train", 1, limit=-1)


def test_data_sets_that_do_not_fit_are_refused() -> None:
    def task(train: object, test: object, classes: int = 3) -> ImageTask:
        return from_datasets(train, test, inlet=(1, 2, 2), classes=classes)

    with pytest.raises(DataError, match="the train data set is empty"):
        task([], numbered(3)).size("train")
    with pytest.raises(DataError, match="the test data set is empty"):
        task(numbered(3), []).size("train")
    with pytest.raises(DataError, match="labels run from 0 to 2, 2 classes allow 0 to 1"):
        task(numbered(9), numbered(3), classes=2).size("train")
    with pytest.raises(DataError, match=r"train input 0 has shape \(3, 4, 4\)"):
        task([(torch.zeros(3, 4, 4), 0)], numbered(3)).size("train")
    with pytest.raises(DataError, match="do not give 1 for validation"):
        task(numbered(1), numbered(3)).size("train")


def test_idx_files_are_read_padded_and_split(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    task = fashion_mnist(tmp_path, validation_images=10, pad=1)
    assert [task.size(split) for split in SPLITS] == [50, 10, 20]
    inputs, targets = everything(task, "test")
    assert inputs.shape == (20, 1, 30, 30)
    assert targets.tolist() == [number % 10 for number in range(20)]
    border = inputs[:, :, 0]
    assert torch.equal(border, border[0, 0, 0].expand_as(border))


def test_torchvision_layout_with_unpacked_files_is_found(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    write_fashion(raw)
    packed = fashion_mnist(tmp_path, validation_images=10).data_hash()
    for path in raw.iterdir():
        path.with_suffix("").write_bytes(gzip.decompress(path.read_bytes()))
        path.unlink()
    assert fashion_mnist(tmp_path, validation_images=10).data_hash() == packed


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-200])


def shorten_content(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes())[:-1]))


def lengthen_content(path: Path) -> None:
    path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + b"\0"))


def claim_too_much(path: Path) -> None:
    path.write_bytes(gzip.compress(b"\0\0\x08\x03" + struct.pack(">3I", 2**32 - 1, 28, 28)))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (truncate, "cannot be read"),
        (shorten_content, "should hold 47,040 bytes .* holds 47,039"),
        (lengthen_content, "should hold 47,040 bytes .* holds more"),
        (claim_too_much, "its header is damaged"),
        (lambda path: path.write_bytes(b""), "begins with nothing"),
        (lambda path: path.write_bytes(b"not gzip at all"), "cannot be read"),
        (lambda path: path.write_bytes(gzip.compress(b"\x80\x04pickle")), "begins with 80 04 70"),
        (lambda path: path.write_bytes(gzip.compress(b"\0\0\x08\x03\0")), "inside its header"),
        (lambda path: write_idx(path, np.zeros((60, 27, 28))), r"\(60, 27, 28\)"),
        (lambda path: write_idx(path, np.zeros((59, 28, 28))), "59 images and 60 labels"),
    ],
)
def test_damaged_image_files_are_named(tmp_path: Path, damage: object, message: str) -> None:
    write_fashion(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    damage(path)  # type: ignore[operator]
    with pytest.raises(DataError, match=message) as refusal:
        fashion_mnist(tmp_path, validation_images=10).size("train")
    assert str(path) in str(refusal.value)


def test_labels_out_of_range_and_too_few_images_are_refused(tmp_path: Path) -> None:
    write_fashion(tmp_path)
    with pytest.raises(DataError, match="60 training examples do not give 60 for validation"):
        fashion_mnist(tmp_path, validation_images=60).size("train")
    with pytest.raises(DataError, match="10 for validation and 51 to train on"):
        fashion_mnist(tmp_path, train_images=51, validation_images=10).size("train")
    write_idx(tmp_path / "t10k-labels-idx1-ubyte.gz", np.full(20, 10))
    with pytest.raises(DataError, match="labels run from 10 to 10, 10 classes allow 0 to 9"):
        fashion_mnist(tmp_path, validation_images=10).size("train")


@needs_fashion_mnist
def test_real_fashion_mnist() -> None:
    folder = DEBIAN_FASHION_MNIST
    small, large = (fashion_mnist(folder, train_images=count) for count in (500, 1500))
    assert [small.size(split) for split in SPLITS] == [500, 5000, 10000]
    for small_part, large_part in zip(
        everything(small, "validation"), everything(large, "validation"), strict=True
    ):
        assert torch.equal(small_part, large_part)
    assert torch.equal(small.sample(500), large.sample(500))
    assert small.data_hash() != large.data_hash()
    targets = everything(small, "test")[1]
    # The first test labels as published: ankle boot, pullover, trousers, trousers, shirt.
    assert targets[:5].tolist() == [9, 2, 1, 1, 6]
    assert torch.bincount(targets).tolist() == [1000] * 10
    mean, deviation = large.splits.train.statistics  # type: ignore[attr-defined]
    # Published for 28x28 images: 0.2860 and 0.3530 of 255; black borders thin them.
    share = (28 / 32) ** 2
    assert mean[0] / 255 == pytest.approx(0.2860 * share, abs=1e-3)
    second = (0.3530**2 + 0.2860**2) * share
    expected = math.sqrt(second - (0.2860 * share) ** 2)
    assert deviation[0] / 255 == pytest.approx(expected, abs=1e-3)

"""Validation is held out fairly: no class is in validation alone, and what lacks is told."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor
from torch.utils.data import TensorDataset

from nas_theseus.errors import DataError
from nas_theseus.tasks import from_datasets, image_folder
from nas_theseus.tasks.splits import held_out, report_classes
from nas_theseus.tasks.task import shuffled


@given(
    st.lists(st.integers(1, 12), min_size=2, max_size=6), st.floats(0.05, 0.5), st.integers(0, 99)
)
@example(sizes=[7, 1, 4, 12], share=0.125, seed=51)
def test_every_class_is_trained_on_and_judged_where_it_can_be(
    sizes: list[int], share: float, seed: int
) -> None:
    labels = torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes))
    count = max(1, round(len(labels) * share))
    held, rest = held_out(labels, count, seed)
    assert len(held) == count
    assert sorted([*held.tolist(), *rest.tolist()]) == list(range(len(labels)))
    in_validation, in_training = ({*labels[part].tolist()} for part in (held, rest))
    if len(rest) >= len(sizes):
        assert in_training == {*range(len(sizes))}
        several = sum(size > 1 for size in sizes)
        if count >= several:
            assert len(in_validation) == several
    again = held_out(labels, count, seed)
    assert torch.equal(again[0], held) and torch.equal(again[1], rest)


def test_a_split_that_is_fair_already_stays_as_it_was() -> None:
    labels = torch.arange(1000) % 10
    held, rest = held_out(labels, 100, 3)
    assert torch.equal(torch.cat([held, rest]), shuffled(1000, 3))


def data(labels: Tensor) -> TensorDataset:
    return TensorDataset(torch.randn(len(labels), 1, 2, 2), labels)


def test_classes_that_a_split_lacks_are_told_with_their_counts() -> None:
    labels = torch.tensor([0, 1] * 15 + [2])
    task = from_datasets(data(labels), data(labels), (1, 2, 2), 4)
    with pytest.warns(UserWarning) as said:
        task.size("train")
    training, validation = (str(one.message) for one in said)
    assert training.startswith("images: 1 of 4 classes have no training example: '3' (0 in tr")
    assert "2 of 4 classes have no validation example: '2' (1 in training, 0 in" in validation
    assert 2 in {int(t) for batch in task.batches("train", 8) for t in batch.targets}


def test_a_long_list_of_classes_is_cut() -> None:
    with pytest.warns(UserWarning, match="'4' .*, 3 more; give more examples"):
        report_classes("x", list("0123456789"), torch.arange(10), torch.tensor([8, 9]))


def test_one_class_is_nothing_to_tell_apart(tmp_path: Path) -> None:
    labels = torch.zeros(20, dtype=torch.long)
    with pytest.raises(DataError, match="all 18 training examples are of class '0'; class"):
        from_datasets(data(labels), data(labels), (1, 2, 2), 2).size("train")
    for split in ("train", "test"):
        (tmp_path / split / "cat").mkdir(parents=True)
        for number in range(4):
            pixels = np.full((8, 8, 3), number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / split / "cat" / f"{number}.png")
    with pytest.raises(DataError, match="training examples are of class 'cat'; classification nee"):
        image_folder(tmp_path, size=8, workers=0).size("train")


@pytest.mark.parametrize("count", range(20, 36))
def test_a_single_picture_is_never_in_validation_alone(count: int, tmp_path: Path) -> None:
    for split, sizes in (
        ("train", {"a": count, "b": count, "c": 1}),
        ("test", dict.fromkeys("abc", 1)),
    ):
        for name, size in sizes.items():
            (tmp_path / split / name).mkdir(parents=True)
            for number in range(size):
                Image.new("L", (8, 8), number).save(tmp_path / split / name / f"{number}.png")
    task = image_folder(tmp_path, size=8, workers=0)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        task.size("train")
    assert any("'c' (1 in training, 0 in validation)" in str(one.message) for one in said)
    assert any(label == 2 for _, label in task.splits.train.files)  # type: ignore[attr-defined]

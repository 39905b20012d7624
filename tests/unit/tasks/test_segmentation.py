"""Segmentation: masks beside their images, ignored pixels, refusals, and a real conversion."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from nas_theseus.conversion.finetune import train
from nas_theseus.errors import DataError, ShapeError
from nas_theseus.space.load import load_space
from nas_theseus.tasks import SPLITS, MaskTask, digit_masks, segmentation
from nas_theseus.tasks.score import score

from .conversions import converted

SPACE = Path(__file__).parents[3] / "search_spaces" / "digits_segmentation.py"


def pairs(count: int, start: int = 0) -> list[tuple[Any, Any]]:
    """Grey images whose mask is the number of the image modulo 3, but for an empty border."""
    found = []
    for number in range(start, start + count):
        mask = np.full((4, 4), 255, np.uint8)
        mask[1:3, 1:3] = number % 3
        found.append((Image.fromarray(np.full((4, 4), number, np.uint8)), Image.fromarray(mask)))
    return found


def small(**options: Any) -> MaskTask:
    given = {"inlet": (1, 4, 4), "classes": 3, "ignored": 255, **options}
    return segmentation(given.pop("train", pairs(20)), given.pop("test", pairs(6)), **given)


def test_digits_are_their_own_masks() -> None:
    task = digit_masks()
    assert (task.inlet.shape, task.outputs.shape) == ((1, 8, 8), (11, 8, 8))
    assert [task.size(split) for split in SPLITS] == [1077, 360, 360]
    for split in SPLITS:
        (inputs, masks, _), *_ = task.batches(split, 500)
        inked = inputs[:, 0] >= inputs[:, 0][masks > 0].min()
        assert torch.equal(inked, masks > 0)
        digits = masks.flatten(1).amax(1)
        assert torch.equal(masks, torch.where(inked, digits[:, None, None], 0))
        assert set(digits.tolist()) == set(range(1, 11))


def test_masks_stay_beside_their_images() -> None:
    task = small()
    assert [task.size(split) for split in SPLITS] == [18, 2, 6]
    for split in SPLITS:
        for inputs, masks, _ in task.batches(split, 4, seed=1):
            images = task.splits.of(split).inputs  # type: ignore[attr-defined]
            statistics = task.splits.of(split).statistics  # type: ignore[attr-defined]
            assert images.shape[1:] == (1, 4, 4)
            numbers = inputs[:, 0, 0, 0] * statistics[1][0] + statistics[0][0]
            assert torch.equal(masks[:, 1, 1], numbers.round().long() % 3)
            assert (masks[:, 0] == 255).all()


def test_ignored_pixels_count_neither_in_the_loss_nor_in_a_batch_of_nothing_else() -> None:
    task = small()
    _, masks, _ = next(task.batches("train", 5))
    outputs = torch.randn(5, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    inner = functional.cross_entropy(outputs[:, :, 1:3, 1:3], masks[:, 1:3, 1:3])
    assert float(task.loss(outputs, masks)) == pytest.approx(float(inner), rel=1e-5)
    assert float(task.loss(outputs, torch.full_like(masks, 255))) == 0.0
    plain = digit_masks()
    _, masks, _ = next(plain.batches("train", 5))
    assert float(plain.loss(torch.zeros(5, 11, 8, 8), masks)) == pytest.approx(math.log(11))


def replaced(index: int, image: Any = None, mask: Any = None) -> list[tuple[Any, Any]]:
    data = pairs(20)
    old_image, old_mask = data[index]
    data[index] = (old_image if image is None else image, old_mask if mask is None else mask)
    return data


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"train": replaced(7, mask=np.full((4, 4), 3))}, "train: mask 7 has values from 3 to 3"),
        ({"train": replaced(7, mask=np.full((4, 4), -1))}, "whole numbers 0 to 2"),
        ({"train": replaced(7, mask=np.full((4, 4), 0.5))}, "mask 7 has values from 0.5 to 0.5"),
        ({"train": replaced(7, mask=np.full((4, 4), np.nan))}, "mask 7 has values from nan"),
        ({"ignored": None}, "or ignored= for pixels without a class"),
        ({"train": replaced(7, mask=np.zeros((5, 4)))}, r"mask 7 has shape \(5, 4\), expected"),
        ({"train": replaced(7, image=torch.zeros(1, 5, 4))}, r"train input 7 has shape \(1, 5, 4"),
        (
            {"train": replaced(7, image=torch.zeros(1, 4, 4))},
            "some train inputs are bytes",
        ),
        ({"test": []}, "the test data set is empty"),
    ],
)
def test_masks_that_do_not_fit_are_refused(options: dict[str, Any], message: str) -> None:
    options = {"ignored": 255, **options}
    with pytest.raises(DataError, match=message):
        small(**options).size("train")


def test_outputs_of_another_size_are_refused() -> None:
    task = digit_masks()
    _, masks, _ = next(task.batches("train", 5))
    with pytest.raises(ShapeError, match=r"\(5, 11, 4, 4\), expected \(5, 11, 8, 8\)"):
        task.loss(torch.zeros(5, 11, 4, 4), masks)


def test_a_guide_for_masks_is_converted_and_taught() -> None:
    space = load_space(SPACE)
    assert space.guide_training is not None and space.recipe.taught
    for _ in train(space.guide, space.task, space.guide_training, seed=0):
        pass
    guide = score(space.guide, space.task, "validation")
    assert guide > 0.85
    found = converted(space, {1: "depthwise", 3: "pointwise"})
    assert space.metric == "val_mean_iou" and 0.5 * guide < found.evaluation.metrics[space.metric]
    assert found.evaluation.cost.macs < 0.9 * converted(space, {}).evaluation.cost.macs

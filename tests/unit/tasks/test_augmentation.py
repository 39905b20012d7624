"""RandAugment of standardised batches: seeded, image by image, and back in the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import RandAugment

from nas_theseus.errors import DataError
from nas_theseus.tasks import digits, from_datasets
from nas_theseus.tasks.augmentation import rand_augment
from nas_theseus.tasks.tensors import standardise

STATISTICS = ((120.0, 110.0, 100.0), (60.0, 50.0, 70.0))


def images(count: int = 6) -> Tensor:
    draw = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 16, 16), dtype=torch.uint8, generator=draw)


def test_each_image_is_varied_by_itself_and_by_seed() -> None:
    given = images()
    before = torch.random.get_rng_state()
    varied = rand_augment(standardise(given, STATISTICS), STATISTICS, np.random.RandomState(3))
    assert torch.equal(torch.random.get_rng_state(), before)
    seeds = np.random.RandomState(3)
    for image, found in zip(given, varied, strict=True):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(seeds.randint(2**31 - 1)))
            expected = standardise(RandAugment()(image)[None], STATISTICS)[0]
        assert torch.equal(found, expected)
    again = rand_augment(standardise(given, STATISTICS), STATISTICS, np.random.RandomState(4))
    assert not torch.equal(again, varied)


def test_a_task_varies_its_training_pictures_only() -> None:
    plain, task = digits(), digits(augment="randaugment")
    varied = [batch for batch in task.batches("train", 32, seed=1, limit=64)]
    for batch, other in zip(varied, plain.batches("train", 32, seed=1, limit=64), strict=True):
        assert batch.index is None  # a teacher's outputs cannot be kept
        assert other.index is not None
        assert not torch.equal(batch.inputs, other.inputs)
        assert torch.equal(batch.targets, other.targets)
    again = list(task.batches("train", 32, seed=1, limit=64))
    assert torch.equal(again[1].inputs, varied[1].inputs)
    for split in ("validation", "train"):
        for batch, other in zip(
            task.batches(split, 64),
            plain.batches(split, 64),
            strict=True,  # type: ignore[arg-type]
        ):
            assert torch.equal(batch.inputs, other.inputs)
    assert task.data_hash() == plain.data_hash()


def test_floats_cannot_be_varied_so() -> None:
    floats = [(torch.full((1, 4, 4), float(n)), n % 2) for n in range(40)]
    task = from_datasets(floats, floats, (1, 4, 4), 2, augment="randaugment")
    with pytest.raises(DataError, match="randaugment varies pictures of bytes, and these"):
        next(task.batches("train", 8, seed=0))

"""Crops of sample pictures: always the same, and test crops apart from those for training."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from nas_theseus import Guide
from nas_theseus.errors import DataError
from nas_theseus.tasks import sample_pictures as module
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.tasks.sample_pictures import Crops, packaged, sample_crops, sample_pictures
from nas_theseus.values.architecture import Boundary


def guide() -> Guide:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5))
    made = Guide([("stem", nn.Conv2d(3, 4, 3)), ("head", head)], Boundary((3, 16, 16)))
    made.preprocessing = Preprocessing(16, 16)
    return made


def test_scikit_learn_brings_two() -> None:
    assert {"china.jpg", "flower.jpg"} <= {path.name for path in sample_pictures()}
    assert packaged("no_such_package", "*") == []


def test_a_task_of_crops_gives_the_same_pictures_every_time() -> None:
    one, other = (sample_crops(guide(), train=20, test=6) for _ in range(2))
    assert [one.size(split) for split in ("train", "validation", "test")] == [18, 2, 6]
    assert one.data_hash() == other.data_hash()
    assert torch.equal(one.sample(4), other.sample(4)) and one.sample(4).shape == (4, 3, 16, 16)


def test_crops_stay_within_their_share_of_the_picture(tmp_path: Path) -> None:
    # The red channel says the column of each pixel.
    columns = np.tile(np.arange(200, dtype=np.uint8), (60, 1))
    Image.fromarray(np.stack([columns] * 3, -1)).save(tmp_path / "a.png")
    for share in ((0.0, 0.7), (0.7, 1.0)):
        crops = Crops([tmp_path / "a.png"], 50, share)
        seen = [np.asarray(crops[index])[..., 0] for index in range(len(crops))]
        assert all(one.shape[0] == one.shape[1] for one in seen)
        low, high = min(one.min() for one in seen), max(one.max() for one in seen)
        assert share[0] * 200 <= low and high < share[1] * 200
        assert high - low > 0.8 * (share[1] - share[0]) * 200


def test_without_any_picture_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLES", {"no_such_package": ["*.jpg"]})
    with pytest.raises(DataError, match="use image_folder"):
        sample_crops(guide())

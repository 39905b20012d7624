"""Seeded augmentation of whole batches of images."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas_theseus.tasks.tensors import Statistics, standardise


def rand_augment(images: Tensor, statistics: Statistics, random: np.random.RandomState) -> Tensor:
    """RandAugment of torchvision with its own defaults, for each image by itself.

    The global random state is not touched.

    Args:
        images: standardised (N, C, H, W).
        statistics: mean and deviation of their bytes.
        random: generator, so that the same seed augments equally.

    Returns:
        New images of the same shape, standardised.

    Source: Cubuk et al. 2020, arXiv:1909.13719.
    """
    # torchvision takes a second to import and is needed for this alone.
    from torchvision.transforms.v2 import RandAugment

    vary = RandAugment()
    mean, deviation = (
        torch.tensor(values, device=images.device).reshape(-1, 1, 1) for values in statistics
    )
    restored = (images * deviation + mean).round().clamp(0, 255).to(torch.uint8)
    varied = []
    with torch.random.fork_rng(devices=[]):
        for image in restored:
            torch.manual_seed(int(random.randint(2**31 - 1)))
            varied.append(vary(image))
    return standardise(torch.stack(varied), statistics)


def flip_and_crop(images: Tensor, random: np.random.RandomState) -> Tensor:
    """Flip half of the images left to right and shift each by up to an eighth of its height.

    Uncovered pixels get the nearest border pixel, which is background in standardised images too,
    for any mean.

    Args:
        images: (N, C, H, W).
        random: generator on the CPU, so that the same seed augments equally on every device.

    Returns:
        New images of the same shape.
    """
    count, _, height, width = images.shape
    reach = max(1, height // 8)
    top, left = random.randint(0, 2 * reach + 1, (2, count))
    flipped = random.randint(0, 2, count).astype(bool)
    rows = top[:, None] + np.arange(height)
    columns = left[:, None] + np.arange(width)
    columns[flipped] = columns[flipped, ::-1]
    padded = functional.pad(images, [reach] * 4, mode="replicate")
    example = torch.arange(count, device=images.device)[:, None, None]
    row = torch.from_numpy(rows).to(images.device)[:, :, None]
    column = torch.from_numpy(columns).to(images.device)[:, None, :]
    # The slice between index tensors puts channels last: (N, H, W, C).
    return padded[example, :, row, column].permute(0, 3, 1, 2).contiguous()

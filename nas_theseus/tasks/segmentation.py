"""Segmentation: one class a pixel, from data sets of images with masks, or digits to try it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, Unpack

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas_theseus.errors import ShapeError
from nas_theseus.tasks.datasets import Datasets, by_class, output_bytes
from nas_theseus.tasks.distillation import of_classes
from nas_theseus.tasks.metric import Measured, OwnMetric, Targets
from nas_theseus.tasks.target_readers import ClassMaps
from nas_theseus.tasks.task import Splits, SplitTask
from nas_theseus.tasks.task_options import SplitOptions
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed

# Of 0 to 16: scikit-learn's digits count the inked pixels of each cell of 4×4.
_INK = 8


class Source(Protocol):
    """Where inputs and targets come from."""

    def load(self) -> Splits:
        """Read them."""


@dataclass(frozen=True, eq=False)
class MaskTask(Measured, SplitTask):
    """Tell the class of each pixel: cross-entropy is minimised, mean IoU is measured.

    Attributes:
        name: what records call it.
        inlet: shape of one image (C, H, W).
        classes: classes of a pixel are 0 … classes-1.
        source: images (C, H, W) and masks (H, W).
        ignored: class of the pixels that count neither in the loss nor in the metric.
        metric, own: what is measured; see `Measured`.
    """

    name: str
    inlet: Boundary
    classes: int
    source: Source
    ignored: int | None = None
    metric: str = "mean_iou"
    own: OwnMetric | None = None

    @property
    def outputs(self) -> Boundary:
        """One logit a class and pixel, (classes, H, W)."""
        return Boundary((self.classes, *self.inlet.shape[1:]))

    @property
    def targets(self) -> Targets:
        """One class a pixel."""
        return Targets("maps", self.classes, self.ignored)

    def load(self) -> Splits:
        """Read images and masks from the source."""
        return self.source.load()

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy per pixel of logits (B, classes, H, W) against classes (B, H, W).

        Raises:
            ShapeError: the outputs are not (B, classes, H, W).
        """
        self._check(outputs, targets)
        if self.ignored is None:
            return functional.cross_entropy(outputs, targets)
        summed = functional.cross_entropy(
            outputs, targets, ignore_index=self.ignored, reduction="sum"
        )
        # The mean of a batch without a pixel that counts would be NaN.
        return summed / (targets != self.ignored).sum().clamp_min(1)

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence from the guide's distribution of each pixel; see `of_classes`."""
        return of_classes(outputs, teacher, temperature, dim=1)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are.

        Raises:
            ShapeError: the outputs are not (B, classes, H, W).
        """
        self._check(outputs, targets)
        return outputs, targets

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        expected = (len(targets), self.classes, *targets.shape[1:])
        if tuple(outputs.shape) != expected:
            raise ShapeError(
                f"task {self.name!r}: outputs have shape {tuple(outputs.shape)}, expected "
                f"{expected} (batch, classes, height, width); does the network give a map as "
                "large as its input?"
            )


def segmentation(
    train: Any,
    test: Any,
    inlet: tuple[int, int, int] = (3, 32, 32),
    classes: int = 2,
    ignored: int | None = None,
    **options: Unpack[SplitOptions],
) -> MaskTask:
    """Data sets of images with masks that fit in memory, such as torchvision's VOCSegmentation.

    Args:
        train: gives (image, mask) for 0 … len-1. Images are as for `from_datasets`. A mask is a
            grey or palette PIL image, an array or a tensor of whole numbers, (H, W).
        test: the test split, in the same form.
        inlet: shape of one image (C, H, W).
        classes: a pixel's class is 0 … classes-1.
        ignored: mask value of the pixels without a class, such as 255; they do not count.
        options: see `SplitOptions`; the name is "masks" and the metric "mean_iou" by default.

    Raises:
        DataError: a share outside (0, 1); on first use also when images or masks do not fit.
    """
    size = (inlet[1], inlet[2])
    read = ClassMaps(classes, size, ignored)
    cost = output_bytes((classes, *size))
    defaults = SplitOptions(validation_share=0.1, seed=0, name="masks", metric="mean_iou")
    chosen = completed("segmentation", options, defaults)
    name, share, seed = chosen["name"] or "masks", chosen["validation_share"], chosen["seed"]
    source = Datasets(name, train, test, inlet, read, share, seed, cost)
    return MaskTask(name, Boundary(inlet), classes, source, ignored, chosen["metric"])


def digit_masks(seed: int = 0, metric: Any = "mean_iou") -> MaskTask:
    """scikit-learn's digits, each its own mask: inked pixels are of the digit's class.

    Class 0 is paper and class d+1 is ink of digit d, so a network has to read the digit to tell
    the class of its pixels. For trying things out: the data come with scikit-learn.
    """
    return MaskTask("digit-masks", Boundary((1, 8, 8)), 11, _DigitMasks(seed), metric=metric)


@dataclass(frozen=True)
class _DigitMasks:
    seed: int

    def load(self) -> Splits:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        bunch = load_digits()
        images = torch.from_numpy(bunch.images.astype(np.uint8))
        labels = torch.from_numpy(bunch.target.astype(np.int64))
        masks = torch.where(images >= _INK, labels[:, None, None] + 1, 0)
        return by_class(images.unsqueeze(1), masks, labels, self.seed)

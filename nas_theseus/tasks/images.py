"""Image classification: digits, Fashion-MNIST, any torchvision data set that fits in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, Unpack, overload

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nas_theseus.errors import DataError, ShapeError
from nas_theseus.tasks.augmentation import flip_and_crop, rand_augment
from nas_theseus.tasks.datasets import Datasets, by_class, split_training
from nas_theseus.tasks.distillation import of_classes
from nas_theseus.tasks.idx import read_idx
from nas_theseus.tasks.metric import Measured, OwnMetric, Targets
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.tasks.splits import report_classes
from nas_theseus.tasks.taken_over import without_labels
from nas_theseus.tasks.target_readers import Alone, ClassLabels, no_labels
from nas_theseus.tasks.task import Splits, SplitTask
from nas_theseus.tasks.task_options import AUGMENTS, Augment, ImageOptions
from nas_theseus.tasks.tensors import TensorExamples, check_labels
from nas_theseus.tasks.unlabelled import UnlabelledTask, unlabelled
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed

# scikit-learn and torchvision take seconds to import and are needed where their data are read, so
# they are imported there: every command and every worker imports this module.


DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")


class ImageSource(Protocol):
    """Where the images of a task come from; classes are known without reading images."""

    @property
    def classes(self) -> int:
        """Labels are 0 … classes-1."""

    def load(self) -> Splits:
        """Read the images."""


@dataclass(frozen=True, eq=False)
class ImageTask(Measured, SplitTask):
    """Classify images: cross-entropy is minimised, accuracy is measured unless told otherwise.

    Attributes:
        name: what records call it.
        inlet: shape of one image (C, H, W).
        source: where the images come from.
        label_smoothing: share of each target spread over all classes, in training only.
        augment: None, or how training batches are varied that are drawn with a seed: ``flip-crop``
            flips and shifts, ``randaugment`` also applies two operations of torchvision's
            RandAugment to each image. A guide that teaches is shown the varied images, so that its
            outputs are computed anew for every batch instead of once.
        metric, own: what is measured; see `Measured`.
    """

    name: str
    inlet: Boundary
    source: ImageSource
    label_smoothing: float = 0.0
    augment: Augment = None
    metric: str = "accuracy"
    own: OwnMetric | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.label_smoothing < 1:
            raise DataError(f"label_smoothing is in [0, 1), not {self.label_smoothing}")
        if self.augment is not None and self.augment not in AUGMENTS:
            raise DataError(
                f"augment is None or {' or '.join(map(repr, AUGMENTS))}, not {self.augment!r}"
            )

    @property
    def outputs(self) -> Boundary:
        """One logit a class."""
        return Boundary((self.source.classes,))

    def load(self) -> Splits:
        """Read the images from the source."""
        return self.source.load()

    def augment_batch(self, inputs: Tensor, random: np.random.RandomState) -> Tensor:
        """Vary training images where the task asks for it.

        Raises:
            DataError: RandAugment is asked for, but the images were no bytes.
        """
        if self.augment is None:
            return inputs
        varied = flip_and_crop(inputs, random)
        if self.augment == "flip-crop":
            return varied
        statistics = getattr(self.splits.train, "statistics", None)
        if statistics is None:
            raise DataError(
                f"task {self.name!r}: randaugment varies pictures of bytes, and these are floats; "
                "give pictures or bytes, or augment='flip-crop'"
            )
        return rand_augment(varied, statistics, random)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of logits (B, classes) against labels (B,).

        Raises:
            ShapeError: the outputs are not (B, classes).
        """
        self._check(outputs, targets)
        return functional.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    @property
    def targets(self) -> Targets:
        """One class an image."""
        return Targets("classes", self.source.classes)

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence from the guide's distribution over classes; see `of_classes`."""
        return of_classes(outputs, teacher, temperature, dim=1)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are.

        Raises:
            ShapeError: the outputs are not (B, classes).
        """
        self._check(outputs, targets)
        return outputs, targets

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        expected = (len(targets), *self.outputs.shape)
        if tuple(outputs.shape) != expected:
            raise ShapeError(
                f"task {self.name!r}: outputs have shape {tuple(outputs.shape)}, expected "
                f"{expected} (batch, classes); does the network end in a pooled linear head?"
            )


def digits(
    seed: int = 0,
    label_smoothing: float = 0.0,
    augment: Augment = None,
    metric: Any = "accuracy",
) -> ImageTask:
    """scikit-learn's 1,797 handwritten digits, 1×8×8, split 60/20/20 and stratified.

    Inputs are the pixels (0 to 16) less the mean of all training pixels, divided by their standard
    deviation: ``mean, deviation = digits().splits.train.statistics``. For trying things out: the
    data come with scikit-learn.
    """
    inlet = Boundary((1, 8, 8))
    return ImageTask("digits", inlet, _Digits(seed), label_smoothing, augment, metric)


def fashion_mnist(
    folder: str | Path | None = None,
    train_images: int | None = None,
    validation_images: int = 5_000,
    pad: int = 2,
    seed: int = 0,
    label_smoothing: float = 0.0,
    augment: Augment = None,
    metric: Any = "accuracy",
) -> ImageTask:
    """Fashion-MNIST: 28×28 grey images of ten kinds of clothes, padded with black to 32×32.

    Inputs are the padded pixels (0 to 255) less the mean of all training pixels, divided by their
    standard deviation: ``mean, deviation = fashion_mnist().splits.train.statistics``.

    Args:
        folder: where the four idx files are: the folder itself, or a root that torchvision's
            ``FashionMNIST(root, download=True)`` has filled. None looks in ``data`` under the
            current folder and then where Debian's package puts them.
        train_images: train on this many only. They are taken after the validation images, so
            validation is the same for every number; smaller subsets are part of greater ones.
        validation_images: how many of the 60,000 training images are kept for validation.
        pad: black pixels added on each side.
        seed: fixes the split.
        label_smoothing: see `ImageTask`.
        augment: see `ImageTask`.
        metric: a name, or a metric of your own (`own_metric`).

    Raises:
        DataError: a count that cannot be; on first use also when the files are missing or damaged.
    """
    if pad < 0:
        raise DataError(f"fashion_mnist: pad is 0 or more pixels, not {pad}")
    if validation_images < 1 or (train_images is not None and train_images < 1):
        raise DataError(
            "fashion_mnist: validation_images and train_images must be at least 1, not "
            f"{validation_images} and {train_images}"
        )
    source = _FashionMNIST(fashion_mnist_places(folder), train_images, validation_images, pad, seed)
    inlet = Boundary((1, 28 + 2 * pad, 28 + 2 * pad))
    return ImageTask("fashion-mnist", inlet, source, label_smoothing, augment, metric)


def fashion_mnist_places(folder: str | Path | None = None) -> tuple[Path, ...]:
    """Where the files of Fashion-MNIST are looked for, in this order; see `fashion_mnist`."""
    # Absolute from the start: a worker elsewhere may have another current folder.
    given = Path("data" if folder is None else folder).expanduser().absolute()
    places = (given, given / "raw", given / "FashionMNIST" / "raw")
    return places if folder is not None else (*places, DEBIAN_FASHION_MNIST)


def fashion_mnist_file(places: Sequence[Path], stem: str) -> Path:
    """One of the four files of Fashion-MNIST, plain or gzipped.

    Raises:
        DataError: it is in none of the places.
    """
    for place in places:
        for path in (place / f"{stem}.gz", place / stem):
            if path.is_file():
                return path
    raise DataError(
        f"Fashion-MNIST's file {stem}[.gz] is in none of {', '.join(map(str, places))}. On Debian "
        "or Ubuntu: apt-get install dataset-fashion-mnist. Elsewhere: "
        "torchvision.datasets.FashionMNIST(root, download=True), then fashion_mnist(folder=root)"
    )


@overload
def from_datasets(
    train: Any,
    test: Any,
    inlet: tuple[int, int, int] | None = None,
    classes: int | None = None,
    *,
    labels: Literal[True] = True,
    guide: Any = None,
    preprocessing: Preprocessing | None = None,
    **options: Unpack[ImageOptions],
) -> ImageTask: ...


@overload
def from_datasets(
    train: Any,
    test: Any,
    inlet: tuple[int, int, int] | None = None,
    classes: int | None = None,
    *,
    labels: Literal[False],
    guide: Any = None,
    preprocessing: Preprocessing | None = None,
    **options: Unpack[ImageOptions],
) -> UnlabelledTask: ...


def from_datasets(
    train: Any,
    test: Any,
    inlet: tuple[int, int, int] | None = None,
    classes: int | None = None,
    *,
    labels: bool = True,
    guide: Any = None,
    preprocessing: Preprocessing | None = None,
    **options: Unpack[ImageOptions],
) -> ImageTask | UnlabelledTask:
    """Any torchvision-style data sets that fit in memory.

    Args:
        train: gives (image, label) for 0 … len-1, or without labels an image or anything that
            begins with one. An image is a PIL image or bytes (C, H, W), which are standardised per
            channel by the training images (``splits.train.statistics`` of the task has means and
            deviations of the bytes), or a float tensor, which is taken as it is. Its transform
            must not be random: it runs once.
        test: the test split, in the same form.
        inlet: shape of one image (C, H, W). Default: what the guide takes, or (3, 32, 32).
        classes: labels are 0 … classes-1. Default: as many as the guide has outputs, or 10.
        labels: False learns the guide's outputs instead of labels; see `unlabelled`. The metric is
            then ``agreement``, or ``divergence``.
        guide: gives preprocessing and, without labels, what is learnt.
        preprocessing: resizes and crops PIL images, and standardises them and bytes. Default: the
            guide's, if it has one.
        options: see `ImageOptions`; the name is "images" by default.

    Raises:
        DataError: a share outside (0, 1), or there is no guide to learn from; on first use also
            when images or labels do not fit.
    """
    metric = "accuracy" if labels else "agreement"
    chosen = completed("from_datasets", options, image_defaults("images", metric))
    name, share, seed = chosen["name"] or "images", chosen["validation_share"], chosen["seed"]
    if guide is not None:
        inlet, classes = (
            inlet or guide.boundaries[0].shape,
            classes or guide.boundaries[-1].shape[0],
        )
        preprocessing = preprocessing or getattr(guide, "preprocessing", None)
    inlet, classes = inlet or (3, 32, 32), classes or 10
    if preprocessing is not None and preprocessing.shape != inlet:
        raise DataError(
            f"from_datasets: inlet {inlet} is not the {preprocessing.shape} of the preprocessing; "
            "leave inlet= out, or give another preprocessing="
        )
    if labels:
        pairs = Datasets(name, train, test, inlet, ClassLabels(classes), share, seed)
        pairs = replace(pairs, preprocessing=preprocessing)
        return image_task(name, Boundary(inlet), _Classes(classes, pairs), chosen)
    learnt = without_labels("from_datasets", guide, chosen)
    inputs = Datasets(name, Alone(train), Alone(test), inlet, no_labels, share, seed)
    source = _Inputs(classes, replace(inputs, preprocessing=preprocessing))
    base = image_task(name, Boundary(inlet), source, {**chosen, "metric": "accuracy"})
    return unlabelled(base, learnt, metric=chosen["metric"])


def image_defaults(name: str | None, metric: str = "accuracy") -> ImageOptions:
    """The options of tasks of images with their defaults."""
    return ImageOptions(
        validation_share=0.1,
        seed=0,
        name=name,
        label_smoothing=0.0,
        augment=None,
        metric=metric,
    )


def image_task(name: str, inlet: Boundary, source: Any, chosen: ImageOptions) -> ImageTask:
    """A task over a source of images."""
    smoothing, augment = chosen["label_smoothing"], chosen["augment"]
    return ImageTask(name, inlet, source, smoothing, augment, chosen["metric"])


@dataclass(frozen=True, eq=False)
class _Classes:
    classes: int
    pairs: Datasets

    def load(self) -> Splits:
        return _reported(self.pairs.name, self.classes, self.pairs.load())


@dataclass(frozen=True, eq=False)
class _Inputs:
    """Images without labels; the number of classes is that of the guide's outputs."""

    classes: int
    inputs: Datasets

    def load(self) -> Splits:
        return self.inputs.load()


def _reported(name: str, classes: int, splits: Splits) -> Splits:
    """The same splits, once classes that are missing have been reported."""
    labels = [e.targets for e in (splits.train, splits.validation) if isinstance(e, TensorExamples)]
    report_classes(name, [str(one) for one in range(classes)], labels[0], labels[1])
    return splits


@dataclass(frozen=True)
class _Digits:
    seed: int
    classes: int = 10

    def load(self) -> Splits:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]

        bunch = load_digits()
        images = torch.from_numpy(bunch.images.astype(np.uint8)).unsqueeze(1)
        labels = torch.from_numpy(bunch.target.astype(np.int64))
        return by_class(images, labels, labels, self.seed)


@dataclass(frozen=True)
class _FashionMNIST:
    places: tuple[Path, ...]
    train_images: int | None
    validation_images: int
    pad: int
    seed: int
    classes: int = 10

    def load(self) -> Splits:
        images, labels = self._read("train")
        test = TensorExamples(*self._read("t10k"), None)
        splits = split_training(
            "fashion-mnist",
            (images, labels),
            test,
            self.validation_images,
            self.train_images,
            self.seed,
        )
        return _reported("fashion-mnist", self.classes, splits)

    def _read(self, part: str) -> tuple[Tensor, Tensor]:
        images_path, labels_path = (
            fashion_mnist_file(self.places, f"{part}-{kind}-ubyte")
            for kind in ("images-idx3", "labels-idx1")
        )
        images, labels = read_idx(images_path), read_idx(labels_path).long()
        if images.shape[1:] != (28, 28) or labels.dim() != 1:
            raise DataError(
                f"Fashion-MNIST has images (N, 28, 28) and labels (N,); {images_path} holds "
                f"{tuple(images.shape)} and {labels_path} {tuple(labels.shape)}"
            )
        check_labels(str(images_path), labels, len(images), self.classes)
        return functional.pad(images.unsqueeze(1), [self.pad] * 4), labels

"""Folders of images that do not fit in memory, read batch by batch through torch's DataLoader."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets import ImageFolder
from torchvision.transforms.functional import (
    center_crop,
    pil_to_tensor,
    resize,
)

from nas_theseus.errors import DataError
from nas_theseus.tasks.pictures import count_transparent, read_picture
from nas_theseus.tasks.splits import held_out, report_classes
from nas_theseus.tasks.task import Device, Digest, Splits, shuffled
from nas_theseus.tasks.tensors import Statistics, standardise

# ImageNet's channels in bytes, which pretrained networks expect.
IMAGENET: Statistics = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
_MOST_FILES_HASHED = 4096


@dataclass(frozen=True)
class ImageFolders:
    """``train`` and ``test`` (or ``val``) under one root, each with one folder a class.

    Attributes:
        root: absolute.
        size: height and width of an image as the network sees it.
        validation_share: share of the training files kept for validation.
        seed: fixes the split and its order.
        workers: processes that read images.
    """

    root: Path
    size: int
    validation_share: float
    seed: int
    workers: int

    @cached_property
    def class_names(self) -> tuple[str, ...]:
        """Names of the folders under ``train``; no image is read.

        Raises:
            DataError: there is no such folder, or no class in it.
        """
        return _class_names(self.root / "train")

    @property
    def classes(self) -> int:
        """Number of classes, from the folder names."""
        return len(self.class_names)

    def load(self) -> Splits:
        """List the files and split them; images are read later, batch by batch.

        Raises:
            DataError: folders are missing or empty, or train and test have other classes.
        """
        tests = [self.root / name for name in ("test", "val") if (self.root / name).is_dir()]
        if not tests:
            raise DataError(f"{self.root} has neither a test nor a val folder; add one of them")
        test_classes = _class_names(tests[0])
        if test_classes != self.class_names:
            differing = sorted(set(test_classes) ^ set(self.class_names))
            raise DataError(
                f"{tests[0]} and {self.root / 'train'} must have the same classes; only one has "
                f"{', '.join(differing[:10])}"
            )
        files, test_files = _list_files(self.root / "train"), _list_files(tests[0])
        labels = torch.tensor([label for _, label in files])
        count = max(1, round(len(files) * self.validation_share))
        # Files are listed class by class: unshuffled, a limited look would see one class only.
        held, rest = held_out(labels, count, self.seed)
        report_classes(str(self.root / "train"), self.class_names, labels[rest], labels[held])
        self._report_transparency([path for path, _ in files])
        return Splits(
            self._examples([files[index] for index in rest.tolist()]),
            self._examples([files[index] for index in held.tolist()]),
            self._examples([test_files[i] for i in shuffled(len(test_files), self.seed).tolist()]),
        )

    def _report_transparency(self, paths: list[str]) -> None:
        found, looked_at = count_transparent(paths)
        if found:
            warnings.warn(
                f"{self.root}: {found} of {looked_at} pictures that were looked at are transparent "
                "somewhere; they are put on white",
                stacklevel=2,
            )

    def _examples(self, files: list[tuple[str, int]]) -> FolderExamples:
        return FolderExamples(self.root, tuple(files), self.size, self.workers)


@dataclass(frozen=True, eq=False)
class FolderExamples:
    """Images on disk, in a fixed order.

    Attributes:
        root: what paths are told relative to in the hash.
        files: path and label of each image.
        size: height and width after resizing and cropping.
        workers: processes that read images.
    """

    root: Path
    files: tuple[tuple[str, int], ...]
    size: int
    workers: int
    indexed: ClassVar[bool] = False

    def __len__(self) -> int:
        return len(self.files)

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches read by worker processes, standardised on the device they are for."""
        target = torch.device(device)
        loader: DataLoader[tuple[Tensor, int]] = DataLoader(
            _ImageFiles([self.files[index] for index in order.tolist()], self.size),
            batch_size=batch_size,
            num_workers=min(self.workers, os.cpu_count() or 1),
            pin_memory=target.type == "cuda",
        )
        for images, labels in loader:
            moved = images.to(target, non_blocking=True)
            yield standardise(moved, IMAGENET), labels.to(target, non_blocking=True)

    def update(self, digest: Digest) -> None:
        """Hash every file's name, label and length, and the bytes of up to 4,096 of them.

        Reading all of an ImageNet would take an hour; the files read are spread evenly.
        """
        digest.update(f"{len(self)} images, {self.size} pixels\n".encode())
        step = -(-len(self) // _MOST_FILES_HASHED)
        for index, (path, label) in enumerate(self.files):
            file = Path(path)
            name = file.relative_to(self.root).as_posix()
            digest.update(f"{name} {label} {file.stat().st_size}\n".encode())
            if index % step == 0:
                digest.update(file.read_bytes())


class _ImageFiles(Dataset[tuple[Tensor, int]]):
    def __init__(self, files: list[tuple[str, int]], size: int) -> None:
        self.files = files
        self.size = size

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        path, label = self.files[index]
        image = read_picture(path)
        image = center_crop(resize(image, round(self.size * 8 / 7)), [self.size, self.size])
        pixels: Tensor = pil_to_tensor(image)
        return pixels, label


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(f"there is no folder {folder}; it should hold one folder a class")
    names = tuple(sorted(entry.name for entry in folder.iterdir() if entry.is_dir()))
    if not names:
        raise DataError(f"{folder} is empty; it should hold one folder a class")
    return names


def _list_files(folder: Path) -> list[tuple[str, int]]:
    try:
        files: list[tuple[str, int]] = ImageFolder(str(folder)).samples
    except FileNotFoundError as error:
        raise DataError(f"{folder} has a class without images: {error}") from error
    return files

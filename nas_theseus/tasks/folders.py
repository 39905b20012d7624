"""Folders of pictures: one folder a class, or pictures without labels at any depth."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from nas_theseus.errors import DataError
from nas_theseus.tasks.picture_files import (
    PICTURES,
    FolderExamples,
    LabelledFile,
    Reading,
    has_pictures,
    list_pictures,
    read_files,
)
from nas_theseus.tasks.pictures import count_transparent
from nas_theseus.tasks.splits import held_out, report_classes
from nas_theseus.tasks.task import Splits, shuffled

_FEWEST = 3


@dataclass(frozen=True)
class ImageFolders:
    """``train`` and ``test`` (or ``val``) under one root, each with one folder a class.

    Hidden folders, and folders without pictures, are ignored.

    Attributes:
        root: absolute.
        reading: how pictures are read.
        validation_share: share of the training files kept for validation.
        seed: fixes the split and its order.
    """

    root: Path
    reading: Reading
    validation_share: float
    seed: int

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
        """List the files, try to read them, and split them.

        Raises:
            DataError: folders are missing or empty, train and test have other classes, or too many
                pictures cannot be read.
        """
        tests = _test_folder(self.root)
        if tests is None:
            raise DataError(f"{self.root} has neither a test nor a val folder; add one of them")
        test_classes = _class_names(tests)
        if test_classes != self.class_names:
            differing = sorted(set(test_classes) ^ set(self.class_names))
            raise DataError(
                f"{tests} and {self.root / 'train'} must have the same classes; only one has "
                f"pictures of {', '.join(differing[:10])}"
            )
        examples = self._read(self.root / "train")
        test = self._read(tests)
        labels = torch.tensor([label for _, label in examples.files])
        count = max(1, round(len(labels) * self.validation_share))
        # Files are listed class by class: unshuffled, a limited look would see one class only.
        held, rest = held_out(labels, count, self.seed)
        report_classes(str(self.root / "train"), self.class_names, labels[rest], labels[held])
        report_transparency(self.root, [path for path, _ in examples.files])
        return Splits(
            chosen(examples, rest.tolist()),
            chosen(examples, held.tolist()),
            chosen(test, shuffled(len(test), self.seed).tolist()),
        )

    def _read(self, folder: Path) -> FolderExamples:
        files: list[LabelledFile] = [
            (path, label)
            for label, name in enumerate(self.class_names)
            for path in list_pictures(folder / name)
        ]
        return read_files(self.root, files, self.reading)


@dataclass(frozen=True)
class PictureFolder:
    """All pictures under one root, at any depth, without labels.

    If the root has a folder ``train`` and a folder ``test`` or ``val``, these are the splits, and
    validation is taken from ``train``. Otherwise validation and test are taken from all pictures.

    Attributes:
        root: absolute.
        classes: number of the guide's outputs.
        reading: how pictures are read.
        validation_share: share of the pictures kept for validation, and for test.
        seed: fixes the splits and their order.
    """

    root: Path
    classes: int
    reading: Reading
    validation_share: float
    seed: int

    def load(self) -> Splits:
        """List the files, try to read them, and split them.

        Raises:
            DataError: there are fewer than three pictures, or too many cannot be read.
        """
        tests = _test_folder(self.root) if (self.root / "train").is_dir() else None
        examples = self._read(self.root if tests is None else self.root / "train")
        order = shuffled(len(examples), self.seed).tolist()
        held = max(1, round(len(order) * self.validation_share))
        if tests is None:
            test, order = chosen(examples, order[:held]), order[held:]
        else:
            found = self._read(tests)
            test = chosen(found, shuffled(len(found), self.seed).tolist())
        report_transparency(self.root, [path for path, _ in examples.files])
        return Splits(chosen(examples, order[held:]), chosen(examples, order[:held]), test)

    def _read(self, folder: Path) -> FolderExamples:
        if not folder.is_dir():
            raise DataError(f"there is no folder {folder}; give a folder of pictures")
        files = [(path, 0) for path in list_pictures(folder)]
        if len(files) < _FEWEST:
            raise DataError(
                f"{folder} has {len(files)} pictures ({', '.join(PICTURES)}); training, validation "
                "and test need one each, and conversion some hundreds"
            )
        return read_files(self.root, files, self.reading)


def chosen(examples: FolderExamples, order: Sequence[int]) -> FolderExamples:
    """Some of the examples, in an order."""
    pixels = examples.pixels
    return FolderExamples(
        examples.root,
        tuple(examples.files[index] for index in order),
        examples.reading,
        None if pixels is None else pixels[torch.tensor(order, dtype=torch.long)],
    )


def report_transparency(root: Path, paths: list[str]) -> None:
    """Warn of pictures that are transparent somewhere."""
    found, looked_at = count_transparent(paths)
    if found:
        warnings.warn(
            f"{root}: {found} of {looked_at} pictures that were looked at are transparent "
            "somewhere; they are put on white",
            stacklevel=2,
        )


def _test_folder(root: Path) -> Path | None:
    return next((root / name for name in ("test", "val") if (root / name).is_dir()), None)


def _class_names(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise DataError(
            f"there is no folder {folder}; {folder.parent} should have the folders train/CLASS and "
            "test/CLASS (or val/CLASS) with pictures. Folders of classes that are not split: split "
            "torchvision.datasets.ImageFolder(FOLDER) with torch.utils.data.Subset, and give both "
            "halves to from_datasets(train, test). Pictures without classes: labels=False"
        )
    folders = (e for e in folder.iterdir() if e.is_dir() and not e.name.startswith("."))
    names = tuple(sorted(entry.name for entry in folders if has_pictures(entry)))
    if not names:
        raise DataError(f"{folder} is empty; it should hold one folder of pictures a class")
    return names

"""Picture files as examples: listed, read in parallel and in order, unreadable ones left out."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from nas_theseus.errors import DataError
from nas_theseus.tasks.pictures import read_picture
from nas_theseus.tasks.preprocessing import Preprocessing, usual_preprocessing
from nas_theseus.tasks.task import Device, Digest
from nas_theseus.tasks.tensors import Statistics, standardise

LabelledFile: TypeAlias = tuple[str, int]

PICTURES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

_MOST_FILES_HASHED = 4096
# Pictures that take more are read anew for every batch.
MOST_BYTES_KEPT = 512 << 20
# Of pictures that are read anew, so many are tried before the first batch, spread evenly.
_MOST_TRIED = 1024
# How many pictures after an unreadable one are tried in its place.
_MOST_STAND_INS = 16
_MOST_NAMED = 5


@dataclass(frozen=True)
class Reading:
    """How picture files are read.

    Attributes:
        preprocessing: what a network expects.
        workers: processes that read pictures; never more than there are cores.
        unreadable: share of files that may be damaged or too large; they are left out.
        outputs: numbers in a prediction for one picture.
    """

    preprocessing: Preprocessing
    workers: int = 0
    unreadable: float = 0.01
    outputs: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.unreadable < 1:
            raise DataError(f"unreadable is a share from 0 to below 1, not {self.unreadable}")
        if self.workers < 0:
            raise DataError(f"workers must be 0 or more, not {self.workers}")


@dataclass(frozen=True, eq=False)
class FolderExamples:
    """Pictures on disk in a fixed order, kept in memory if they are few.

    Attributes:
        root: what paths are relative to in the hash.
        files: path and label of each picture.
        reading: how they are read.
        pixels: bytes of all pictures (N, C, H, W), if they are kept in memory.
    """

    root: Path
    files: tuple[LabelledFile, ...]
    reading: Reading
    pixels: Tensor | None = field(default=None, repr=False)

    @property
    def indexed(self) -> bool:
        """Whether predictions for all pictures are small enough to keep in memory."""
        small = 4 * self.reading.outputs * len(self) <= MOST_BYTES_KEPT
        return self.pixels is not None and small

    @property
    def statistics(self) -> Statistics:
        """Mean and deviation of bytes, with which they are standardised."""
        return self.reading.preprocessing.statistics

    def __len__(self) -> int:
        return len(self.files)

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Batches from memory or read by worker processes, standardised on the device."""
        target = torch.device(device)
        for images, labels in self._batches(order, batch_size, target):
            moved = images.to(target, non_blocking=True)
            yield standardise(moved, self.statistics), labels.to(target, non_blocking=True)

    def _batches(
        self, order: Tensor, batch_size: int, target: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        if self.pixels is not None:
            labels = torch.tensor([label for _, label in self.files])
            for chosen in torch.split(order, batch_size):
                yield self.pixels.index_select(0, chosen), labels[chosen]
            return
        yield from DataLoader(
            _WithStandIns(self.files, order.tolist(), self.reading.preprocessing),
            batch_size=batch_size,
            num_workers=_processes(self.reading.workers),
            pin_memory=target.type == "cuda",
        )

    def update(self, digest: Digest) -> None:
        """Hash every file's name, label and length, and the bytes of up to 4,096 of them.

        Reading all of an ImageNet would take an hour; the files read are spread evenly.
        """
        expected = self.reading.preprocessing
        digest.update(f"{len(self)} images, {expected.size} pixels\n".encode())
        if expected != usual_preprocessing(expected.size):
            digest.update(f"{expected}\n".encode())
        step = -(-len(self) // _MOST_FILES_HASHED)
        for index, (path, label) in enumerate(self.files):
            file = Path(path)
            name = file.relative_to(self.root).as_posix()
            digest.update(f"{name} {label} {file.stat().st_size}\n".encode())
            if index % step == 0:
                digest.update(file.read_bytes())


def list_pictures(folder: Path) -> list[str]:
    """Paths of all pictures at any depth, sorted; hidden files and folders are left out."""
    found = []
    for root, folders, names in sorted(os.walk(folder, followlinks=True)):
        if any(part.startswith((".", "__MACOSX")) for part in Path(root).relative_to(folder).parts):
            continue
        del folders
        found += [os.path.join(root, name) for name in sorted(names) if _is_picture(name)]
    return found


def has_pictures(folder: Path) -> bool:
    """Whether there is a picture at any depth; stops at the first one."""
    for _, folders, names in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith((".", "__MACOSX"))]
        if any(map(_is_picture, names)):
            return True
    return False


def _is_picture(name: str) -> bool:
    return name.lower().endswith(PICTURES) and not name.startswith(".")


def read_files(root: Path, files: Sequence[LabelledFile], reading: Reading) -> FolderExamples:
    """The readable ones of picture files as examples.

    All are read and kept in memory if they take at most 512 MiB. Of more, 1,024 are tried; one that
    turns out to be unreadable later is replaced by the next readable one.

    Raises:
        DataError: more than the stated share cannot be read; the message names some.
    """
    bytes_each = torch.Size(reading.preprocessing.shape).numel()
    kept = bytes_each * len(files) <= MOST_BYTES_KEPT
    step = 1 if kept else -(-len(files) // _MOST_TRIED)
    tried = list(range(0, len(files), step))
    found: list[Tensor] = []
    wrong: dict[int, str] = {}
    loader: Any = DataLoader(
        _Tried([files[index][0] for index in tried], reading.preprocessing),
        batch_size=16,
        num_workers=_processes(reading.workers),
        collate_fn=list,
    )
    results = (one for batch in loader for one in batch)
    for index, (pixels, said) in zip(tried, results, strict=True):
        if said is not None:
            wrong[index] = said
        elif kept:
            found.append(pixels)
    _report(root, list(wrong.values()), len(tried), len(files), reading.unreadable)
    readable = tuple(file for index, file in enumerate(files) if index not in wrong)
    return FolderExamples(root, readable, reading, torch.stack(found) if found else None)


def _report(root: Path, wrong: list[str], tried: int, files: int, allowed: float) -> None:
    """Warn of unreadable pictures, or refuse them if they are too many."""
    if not wrong:
        return
    first = "; ".join(wrong[:_MOST_NAMED])
    more = f"; and {len(wrong) - _MOST_NAMED:,} more" if len(wrong) > _MOST_NAMED else ""
    looked = f"{tried:,}" if tried == files else f"{tried:,} tried of {files:,}"
    said = f"{root}: {len(wrong):,} of {looked} pictures cannot be read"
    if len(wrong) > allowed * tried:
        raise DataError(
            f"{said}, more than the {allowed:.0%} that may be left out (unreadable={allowed:g}): "
            f"{first}{more}"
        )
    warnings.warn(f"{said} and are left out: {first}{more}", stacklevel=2)


def _processes(workers: int) -> int:
    return min(workers, os.cpu_count() or 1)


class _Tried(Dataset[tuple[Tensor | None, str | None]]):
    """The pixels of each file, or why it cannot be read."""

    def __init__(self, paths: list[str], preprocessing: Preprocessing) -> None:
        self._paths, self._preprocessing = paths, preprocessing

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Tensor | None, str | None]:
        try:
            return self._preprocessing.pixels(read_picture(self._paths[index])), None
        except DataError as error:
            return None, str(error)


class _WithStandIns(Dataset[tuple[Tensor, int]]):
    """Pixels and labels in an order; the next readable picture stands in for an unreadable one."""

    def __init__(
        self, files: Sequence[LabelledFile], order: list[int], preprocessing: Preprocessing
    ) -> None:
        self._files, self._order, self._preprocessing = files, order, preprocessing

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        first = self._order[position]
        for index in range(first, first + _MOST_STAND_INS):
            path, label = self._files[index % len(self._files)]
            try:
                return self._preprocessing.pixels(read_picture(path)), label
            except DataError as error:
                said = error
        raise DataError(
            f"{said}; and the {_MOST_STAND_INS - 1} pictures after {self._files[first][0]} cannot "
            "be read either"
        )

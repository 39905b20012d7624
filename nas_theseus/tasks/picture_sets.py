"""Pictures in WebDataset tar files, and in folders that Hugging Face's `datasets` saved."""

from __future__ import annotations

import bisect
import io
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any

from PIL import Image

from nas_theseus.errors import DataError
from nas_theseus.storage.json_files import MALFORMED
from nas_theseus.tasks.picture_files import PICTURES
from nas_theseus.tasks.pictures import DAMAGE
from nas_theseus.tasks.text_sources import arrow_package, listed, located, validated_table

_LARGEST_LABEL = 1_024  # bytes


@dataclass(frozen=True)
class _Place:
    """Where a sample's picture and label are in a tar file; (0, 0) is nowhere."""

    file: int
    key: str
    picture: tuple[int, int]
    label: tuple[int, int]


@dataclass(frozen=True, eq=False)
class TarPictures:
    """Pictures of tar files in their order, as (picture, label); see `webdataset`."""

    files: tuple[Path, ...]
    _places: tuple[_Place, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        place = self._places[index]
        where = f"sample {place.key!r} of {self.files[place.file]}"
        with self.files[place.file].open("rb") as file:
            content, label = (_read(file, at) for at in (place.picture, place.label))
        try:
            number = int(label.decode()) if label else 0
        except ValueError as error:
            raise DataError(
                f"the label of {where} is {label[:20]!r}, not a whole number in a file .cls"
            ) from error
        return _opened(content, where), number


def webdataset(paths: str | Path | Sequence[str | Path]) -> TarPictures:
    """Pictures of WebDataset tar files, for `from_datasets`, with labels or without.

    A sample is the files of one name up to its first dot, one after the other: ``0001.jpg`` and
    ``0001.cls``, which has a class as a whole number. Other files, such as ``0001.json``, are not
    read. Nothing is unpacked to disk. Only the index of each file is read at first.

    Args:
        paths: tar files, not compressed, and patterns such as ``train-*.tar``, read in the order of
            their names.

    Raises:
        DataError: a file is no tar file, is compressed or cut off, or holds a link or no picture.
    """
    given = [paths] if isinstance(paths, str | Path) else list(paths)
    files = located(given)
    places = [place for number, path in enumerate(files) for place in _places_in(number, path)]
    return TarPictures(files, tuple(places))


def _places_in(number: int, path: Path) -> list[_Place]:
    found: dict[str, dict[str, tuple[int, int]]] = {}
    size = path.stat().st_size
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.issym() or member.islnk():
                    raise DataError(
                        f"{path} holds a link, {member.name}, which is not followed; pack the "
                        "files themselves"
                    )
                if not member.isreg():
                    continue
                if member.offset_data + member.size > size:
                    raise DataError(f"{path} ends within {member.name}; copy it again")
                folder, slash, name = member.name.rpartition("/")
                key, _, kind = name.partition(".")
                at = member.offset_data, member.size
                if key and not name.startswith("."):
                    found.setdefault(f"{folder}{slash}{key}", {})[f".{kind.lower()}"] = at
    except DataError:
        raise
    except (tarfile.TarError, OSError, *MALFORMED) as error:  # tarfile checks few numbers
        raise DataError(
            f"{path} cannot be read as a tar file: {error}; give tar files without compression"
        ) from error
    places = []
    for key, kinds in found.items():
        picture = next((kinds[kind] for kind in PICTURES if kind in kinds), None)
        if picture is None:
            continue
        label = kinds.get(".cls", (0, 0))
        places.append(_Place(number, key, picture, (label[0], min(label[1], _LARGEST_LABEL))))
    if not places:
        raise DataError(
            f"{path} holds no picture ({', '.join(PICTURES)}); a sample is files of one name, such "
            "as 0001.jpg and 0001.cls"
        )
    return places


def _read(file: Any, at: tuple[int, int]) -> bytes:
    file.seek(at[0])
    content: bytes = file.read(at[1])
    return content


@dataclass(frozen=True, eq=False)
class TablePictures:
    """Pictures of Arrow and Parquet tables in order, as (picture, label); see `saved_dataset`.

    Attributes:
        files: the tables.
        picture, label: names of the columns; without a label, 0.
        ends: number of rows up to the end of each table.
    """

    files: tuple[Path, ...]
    picture: str
    label: str | None
    ends: tuple[int, ...]
    _open: dict[int, Any] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return self.ends[-1]

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        if not 0 <= index < len(self):
            raise IndexError(index)
        number = bisect.bisect_right(self.ends, index)
        if number not in self._open:
            # One table at a time: those of Parquet are in memory as a whole.
            self._open.clear()
            self._open[number] = _table(self.files[number])
        table, row = self._open[number], index - (self.ends[number - 1] if number else 0)
        where = f"row {row} of {self.files[number]}"
        found = table.column(self.picture)[row].as_py()
        content = found.get("bytes") if isinstance(found, dict) else found
        if not isinstance(content, bytes):
            raise DataError(
                f"{where} has no bytes of a picture in {self.picture!r}, but {content!r:.40}; save "
                "the data set with its pictures embedded"
            )
        value = 0 if self.label is None else table.column(self.label)[row].as_py()
        if not isinstance(value, int):
            raise DataError(f"{where} has the label {value!r}; labels are whole numbers")
        return _opened(content, where), value

    def __getstate__(self) -> dict[str, Any]:
        """Without open tables."""
        return {**vars(self), "_open": {}}


def saved_dataset(
    path: str | Path, picture: str = "image", label: str | None = "label"
) -> TablePictures:
    """Pictures of a folder that `datasets` saved, or of Parquet files, for `from_datasets`.

    The package `datasets` is not needed; pyarrow is.

    Args:
        path: a folder of ``save_to_disk`` of one split, an Arrow or Parquet file, or a pattern.
        picture: column with pictures: bytes, or bytes and a path, as `datasets` saves them.
        label: column with classes as whole numbers; None, or a column that is not there: none.

    Raises:
        DataError: there is no such file or column, or a table cannot be read.
    """
    files = listed(located([path]), ("*.arrow", "*.parquet"))
    rows = []
    for file in files:
        table = _table(file)
        if picture not in table.column_names:
            raise DataError(
                f"{file} has no column {picture!r}; give picture= one of "
                f"{', '.join(table.column_names)}"
            )
        if label not in table.column_names:
            label = None
        rows.append(table.num_rows)
    if not sum(rows):
        raise DataError(f"{path} has no rows")
    return TablePictures(files, picture, label, tuple(accumulate(rows)))


def _table(path: Path) -> Any:
    pyarrow = arrow_package("pyarrow")
    try:
        if path.suffix == ".parquet":
            return validated_table(arrow_package("pyarrow.parquet").read_table(path))
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
            return validated_table(batches.read_all())
    except (OSError, ValueError) as error:  # pyarrow's own are of these
        raise DataError(f"{path} cannot be read: {error}") from error


def _opened(content: bytes, where: str) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))
        image.load()
    except (Image.DecompressionBombError, *DAMAGE) as error:
        raise DataError(f"{where} is not a readable picture: {error}; remove it") from error
    return image

"""Documents in files, folders, Parquet and saved `datasets` folders, found first and read later."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nas_theseus.errors import DataError
from nas_theseus.storage.json_files import MALFORMED, read_json
from nas_theseus.storage.json_files import text as text_of
from nas_theseus.tasks.text_reading import normalised, read_chunks

# Endings of tables of Arrow, one document a row.
_TABLES = (".parquet", ".arrow")
_ROWS = 256
Found = TypeVar("Found", str, Path)


@dataclass(frozen=True)
class TextSource:
    """Where documents come from.

    Attributes:
        files: absolute, in the order in which they are read.
        column: of Parquet and Arrow files: the one with the text.
    """

    files: tuple[Path, ...]
    column: str

    def check(self) -> None:
        """Look into every table's schema; no text is read.

        Raises:
            DataError: a file cannot be read, or a table lacks the column.
        """
        for path in self.files:
            if path.suffix == ".parquet":
                self._parquet(path).close()
            elif path.suffix == ".arrow":
                self._check_column(path, _arrow_schema(path))

    def fingerprint(self) -> list[object]:
        """Each file's path, size and time of change, which say that a text is still the same.

        Raises:
            DataError: a file cannot be read.
        """
        found: list[object] = [self.column]
        for path in self.files:
            try:
                status = path.stat()
            except OSError as error:
                raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
            found.append([str(path), status.st_size, status.st_mtime_ns])
        return found

    def about_bytes(self) -> int:
        """About how much text there is; what is compressed counts three times its size."""
        return sum(
            path.stat().st_size * (3 if path.suffix == ".parquet" else 1) for path in self.files
        )

    def documents(self) -> Iterator[Iterable[str]]:
        """Each document as a stream of chunks: a file of text is one, a row of a table is one.

        Raises:
            DataError: a file cannot be read, or is no text.
        """
        for path in self.files:
            if path.suffix in _TABLES:
                for text in self._rows(path):
                    yield (normalised(text),)
            else:
                yield read_chunks(path)

    def _rows(self, path: Path) -> Iterator[str]:
        try:
            for batch in map(validated_table, self._batches(path)):
                yield from (text for text in batch.column(self.column).to_pylist() if text)
        except (OSError, ValueError) as error:  # pyarrow's own are of these
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read: {error}") from error

    def _batches(self, path: Path) -> Iterator[Any]:
        if path.suffix == ".parquet":
            with self._parquet(path) as file:
                yield from file.iter_batches(batch_size=_ROWS, columns=[self.column])
            return
        self._check_column(path, _arrow_schema(path))
        pyarrow = arrow_package("pyarrow")
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
            yield from batches

    def _parquet(self, path: Path) -> Any:
        """An open Parquet file with the column."""
        try:
            file = arrow_package("pyarrow.parquet").ParquetFile(path)
        except (OSError, ValueError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(f"{path} cannot be read as Parquet: {error}") from error
        self._check_column(path, file.schema_arrow)
        return file

    def _check_column(self, path: Path, schema: Any) -> None:
        kinds = {field.name: str(field.type) for field in schema}
        kind = kinds.get(self.column)
        if kind is None:
            raise DataError(
                f"{path} has no column {self.column!r}; give column= one of "
                f"{', '.join(kinds) or '(none)'}"
            )
        if not kind.endswith(("string", "string_view")):
            raise DataError(
                f"{path}: column {self.column!r} holds {kind}, not text; give column= one of "
                f"{', '.join(n for n, k in kinds.items() if 'string' in k) or '(none has text)'}"
            )


def located(given: Sequence[str | Path], within: Sequence[Path] = ()) -> tuple[Path, ...]:
    """The files and folders that a user means, absolute.

    Args:
        given: files, folders, and patterns such as ``tragedies/*.md``.
        within: folders in which names are looked up before the working directory.

    Raises:
        DataError: something does not exist.
    """
    found = [path for one in given for path in _located(Path(one).expanduser(), within)]
    return tuple(dict.fromkeys(found))


def _located(path: Path, within: Sequence[Path]) -> list[Path]:
    """The files and folders of one entry, in the first folder that has any."""
    folders = [*within, Path.cwd()]
    for folder in folders:
        whole = folder / path  # `path` itself if it is absolute
        if whole.exists():
            return [whole]
        if any(sign in str(path) for sign in "*?["):
            root = Path(whole.anchor)
            if found := sorted(root.glob(str(whole.relative_to(root)))):
                return found
    places = "" if path.is_absolute() else f" in {' or '.join(map(str, folders))}"
    raise DataError(f"there is no {path}{places}; give a file, a folder, or a pattern within one")


def listed(paths: Sequence[Path], patterns: Sequence[str]) -> tuple[Path, ...]:
    """All files that are read, in order.

    Args:
        paths: files and folders. A folder stands for its files of the given patterns, at any depth,
            by name; names that begin with "." are left out. A folder that `datasets` saved stands
            for its tables.
        patterns: of file names, such as ``*.txt``.

    Raises:
        DataError: no file in a folder matches.
    """
    found = (_in_folder(path, patterns) if path.is_dir() else [path] for path in paths)
    return tuple(dict.fromkeys(path for files in found for path in files))


def _in_folder(folder: Path, patterns: Sequence[str]) -> list[Path]:
    if (folder / "dataset_dict.json").is_file():
        splits = _saved(
            folder / "dataset_dict.json", lambda said: list(map(text_of, said["splits"]))
        )
        raise DataError(
            f"{folder} holds several data sets; give one of them: "
            f"{', '.join(str(folder / split) for split in splits)}"
        )
    if (folder / "state.json").is_file() and (folder / "dataset_info.json").is_file():
        return _saved(
            folder / "state.json",
            lambda said: [_beside(folder, file["filename"]) for file in said["_data_files"]],
        )
    found = {
        path
        for pattern in patterns
        for path in folder.rglob(pattern)
        if path.is_file() and not _hidden(path.relative_to(folder))
    }
    if not found:
        raise DataError(
            f"no file in {folder} matches {' or '.join(patterns)}; give pattern=, such as "
            "pattern='*.html'"
        )
    return sorted(found, key=lambda path: path.relative_to(folder).as_posix())


def _saved(path: Path, read: Callable[[Any], list[Found]]) -> list[Found]:
    """What a file says that `datasets` wrote.

    Raises:
        DataError: it is damaged, or names a file outside of its folder.
    """
    try:
        return read(read_json(path))
    except (OSError, *MALFORMED) as error:
        raise DataError(f"{path} is damaged: {error}; save the data set again") from error


def _beside(folder: Path, name: object) -> Path:
    """A file in a folder by its name; a name that leads out of it is a ValueError."""
    name = text_of(name)
    if not name or name in (".", "..") or set(name) & {"/", "\\", "\0"}:
        raise ValueError(f"{name!r:.60} is not the name of a file beside it")
    return folder / name


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _arrow_schema(path: Path) -> Any:
    pyarrow = arrow_package("pyarrow")
    try:
        with pyarrow.memory_map(str(path)) as file, pyarrow.ipc.open_stream(file) as batches:
            return batches.schema
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an Arrow stream: {error}") from error


def validated_table(table: Any) -> Any:
    """The same table or batch; its offsets are checked, which pyarrow otherwise trusts.

    Raises:
        ValueError: they lead out of its buffers: to read there would end the process, or show
            what is in its memory.
    """
    table.validate(full=True)
    return table


def arrow_package(name: str) -> Any:
    """A module of pyarrow.

    Raises:
        DataError: pyarrow is not installed.
    """
    try:
        importlib.import_module("pyarrow.ipc")
        return importlib.import_module(name)
    except ImportError as error:
        raise DataError(
            "Parquet and Arrow files need the package pyarrow: pip install 'nas-theseus[text]'"
        ) from error

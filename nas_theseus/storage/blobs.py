"""Whole files on a folder or on any fsspec address; what goes wrong there is told in one way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from nas_theseus.errors import LibraryError, StorageError
from nas_theseus.storage.redaction import scrub, without_credentials
from nas_theseus.storage.whole_files import write_bytes


class Blobs:
    """Named bytes below one address.

    Args:
        location: a folder, or an fsspec address such as ``s3://bucket/library``.

    Raises:
        LibraryError: here and in all methods: the storage cannot be reached, read or written.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        with self._telling("open", self.location):
            # What other machines write must be seen at once.
            self._fs, self._root = fsspec.url_to_fs(self.location, use_listings_cache=False)

    @property
    def folder(self) -> Path | None:
        """Where it is on this machine; None for other storage."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def read(self, name: str, limit: int | None = None) -> bytes | None:
        """The content; None where there is no such file.

        Args:
            limit: most bytes that are read; of a larger file, that many and one.
        """
        path = self._path(name)
        part = {}  # a range only where it is needed: of an empty file storages refuse any
        if limit is not None and (self.size(name) or 0) > limit:
            part = {"start": 0, "end": limit + 1}
        with self._telling("read", path):
            try:
                content: bytes = self._fs.cat_file(path, **part)
                return content
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is no such file."""
        path = self._path(name)
        with self._telling("read", path):
            try:
                return int(self._fs.info(path)["size"])
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes, *, exclusive: bool = False) -> bool:
        """Write a file whole: aside and renamed on a folder, put at once elsewhere.

        Args:
            exclusive: leave a file that is there as it is, where the storage can tell (a folder
                takes the last of two at once).

        Returns:
            Whether it was written.
        """
        path = self._path(name)
        with self._telling("write", path):
            if self.folder is not None:
                write_bytes(Path(path), content)
                return True
            if exclusive:
                try:
                    self._fs.pipe_file(path, content, mode="create")
                    return True
                except FileExistsError:
                    return False
                except (NotImplementedError, TypeError, ValueError):
                    pass  # this storage has no conditional put
            self._fs.pipe_file(path, content)
            return True

    def move(self, name: str, other: str) -> None:
        """Rename a file; nothing happens where it is gone."""
        path, aim = self._path(name), self._path(other)
        with self._telling("move", path), suppress(FileNotFoundError):
            self._fs.makedirs(self._fs._parent(aim), exist_ok=True)
            self._fs.mv(path, aim)

    def remove(self, name: str) -> None:
        """Remove a file; nothing happens where it is gone."""
        path = self._path(name)
        with self._telling("remove", path), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted, without the folder's."""
        path = self._path(folder)
        with self._telling("list", path):
            found = self._fs.find(path, maxdepth=1)
        return sorted(name.rsplit("/", 1)[1] for name in found)

    def modified(self, name: str) -> datetime:
        """When a file was written; now, where it is gone or the storage cannot tell."""
        path = self._path(name)
        with self._telling("read", path):
            try:
                when: datetime = self._fs.modified(path)
            except (FileNotFoundError, NotImplementedError):
                return datetime.now(UTC)
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def _path(self, name: str) -> str:
        if name.startswith("/") or ".." in name.split("/"):
            raise LibraryError(
                f"library {without_credentials(self.location)}: {name!r} leads out of it; if the "
                "library did not make that name, somebody else did: see docs/guides/security.md"
            )
        return f"{self._root}/{name}"

    @contextmanager
    def _telling(self, doing: str, path: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each kind of storage raises its client's own
            cause = error.__cause__ if isinstance(error, StorageError) else error
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            said = f"cannot {doing} {path}: {reason}"
            raise LibraryError(
                f"library {without_credentials(self.location)}: {scrub(said, self.location)}; free "
                "space there, restore access to it, or give another storage"
            ) from error

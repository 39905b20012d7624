"""Atomic files in a folder or at any fsspec address, with the same errors for every storage."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import fsspec
from fsspec.implementations.local import LocalFileSystem

from nas_theseus.errors import LibraryError, StorageError
from nas_theseus.storage.json_files import is_own_file
from nas_theseus.storage.redaction import scrub, without_credentials
from nas_theseus.storage.whole_files import write_bytes


class NoFileError(LibraryError):
    """A name of a library stands for a link, a folder or a pipe, which are never read."""


class Blobs:
    """Named bytes below one address.

    Args:
        location: a folder, or an fsspec address such as ``s3://bucket/library``.

    Raises:
        LibraryError: here and in all methods: the storage cannot be reached, read or written.
    """

    def __init__(self, location: str | Path) -> None:
        self.location = str(location)
        with self._with_errors("open", self.location):
            # Without a listings cache, so that files written by other machines are seen at once.
            self._fs, self._root = fsspec.url_to_fs(self.location, use_listings_cache=False)

    @property
    def folder(self) -> Path | None:
        """The folder on this machine; None for other storage."""
        return Path(self._root) if isinstance(self._fs, LocalFileSystem) else None

    def read(self, name: str, limit: int | None = None) -> bytes | None:
        """The content of a file; None if there is no such file.

        Args:
            limit: largest size to read; of a larger file, `limit` + 1 bytes are returned.
        """
        path = self._path(name)
        self._refuse_other_than_files(path)
        part = {}  # a range only if needed: storages refuse any range of an empty file
        if limit is not None and (self.size(name) or 0) > limit:
            part = {"start": 0, "end": limit + 1}
        with self._with_errors("read", path):
            try:
                content: bytes = self._fs.cat_file(path, **part)
                return content
            except FileNotFoundError:
                return None

    def size(self, name: str) -> int | None:
        """Size of a file in bytes; None if there is no such file."""
        path = self._path(name)
        self._refuse_other_than_files(path)
        with self._with_errors("read", path):
            try:
                return int(self._fs.info(path)["size"])
            except FileNotFoundError:
                return None

    def write(self, name: str, content: bytes, *, exclusive: bool = False) -> bool:
        """Write a file atomically: by renaming a temporary file in a folder, by one put elsewhere.

        Args:
            exclusive: do not replace an existing file, if the storage supports it (in a folder, the
                last of two simultaneous writers wins).

        Returns:
            Whether the file was written.
        """
        path = self._path(name)
        with self._with_errors("write", path):
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
                    pass  # this storage does not support conditional puts
            self._fs.pipe_file(path, content)
            return True

    def move(self, name: str, other: str) -> None:
        """Rename a file; does nothing if it does not exist."""
        path, aim = self._path(name), self._path(other)
        with self._with_errors("move", path), suppress(FileNotFoundError):
            self._fs.makedirs(self._fs._parent(aim), exist_ok=True)
            self._fs.mv(path, aim)

    def remove(self, name: str) -> None:
        """Remove a file; does nothing if it does not exist."""
        path = self._path(name)
        with self._with_errors("remove", path), suppress(FileNotFoundError):
            self._fs.rm_file(path)

    def names(self, folder: str) -> list[str]:
        """Names of the files in a folder, sorted, without the folder's name."""
        path = self._path(folder)
        with self._with_errors("list", path):
            found = self._fs.find(path, maxdepth=1)
        return sorted(name.rsplit("/", 1)[1] for name in found)

    def modified(self, name: str) -> datetime:
        """Time when a file was written; now if it does not exist or the storage has no times."""
        path = self._path(name)
        with self._with_errors("read", path):
            try:
                when: datetime = self._fs.modified(path)
            except (FileNotFoundError, NotImplementedError):
                return datetime.now(UTC)
        return when if when.tzinfo else when.replace(tzinfo=UTC)

    def _refuse_other_than_files(self, path: str) -> None:
        """A link could stand for any file of the user's, and reading a pipe never ends."""
        if self.folder is not None and os.path.lexists(path) and not is_own_file(Path(path)):
            raise NoFileError(
                f"library {without_credentials(self.location)}: {path} is a link, a folder or a "
                "pipe instead of a file; remove it"
            )

    def _leads_out(self, name: str) -> bool:
        if name.startswith("/") or ".." in name.split("/"):
            return True
        if self.folder is None:
            return False
        root = os.path.realpath(self._root)
        folder = os.path.realpath(os.path.dirname(f"{self._root}/{name}"))
        return bool(os.path.commonpath([root, folder]) != root)

    def _path(self, name: str) -> str:
        if self._leads_out(name):
            raise LibraryError(
                f"library {without_credentials(self.location)}: the file name {name!r} leads out "
                "of the library, so the library may have been tampered with; see the documentation "
                "on security"
            )
        return f"{self._root}/{name}"

    @contextmanager
    def _with_errors(self, doing: str, path: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # each kind of storage raises errors of its own client
            cause = error.__cause__ if isinstance(error, StorageError) else error
            reason = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
            message = f"cannot {doing} {path}: {reason}"
            raise LibraryError(
                f"library {without_credentials(self.location)}: {scrub(message, self.location)}; "
                "free space there, restore access to it, or use another storage"
            ) from error

"""Kill this process at its n-th file operation: `os`, `io` and `shutil` are patched for that.

Only operations below one folder count: opening a file for writing, every write, truncation and
flush to disk, renaming, linking, removing, folders, times and permissions. What C code writes by
itself is not seen: SQLite, torch's own files, and an encoder of Pillow that is given a descriptor.
"""

from __future__ import annotations

import builtins
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

Function: TypeAlias = Callable[..., Any]

# Functions of `os` that change the disk, and how many of their first arguments are paths.
PATHS = {
    "mkdir": 1,
    "rmdir": 1,
    "unlink": 1,
    "remove": 1,
    "rename": 2,
    "replace": 2,
    "link": 2,
    "symlink": 2,
    "truncate": 1,
    "utime": 1,
    "chmod": 1,
    "mkfifo": 1,
}
DESCRIPTORS = ("fsync", "fdatasync", "ftruncate", "fchmod", "posix_fallocate")
WRITING = os.O_WRONLY | os.O_RDWR


@dataclass
class Operations:
    """Counts file operations, and kills this process at one of them.

    Attributes:
        root: only operations below this folder count.
        kill_at: number of the operation, from 1; 0 kills at none.
        half: kill in the middle of a write, with half of its bytes written, instead of before it.
        log: file for one line an operation, of its kind and its path below `root`.
    """

    root: Path
    kill_at: int = 0
    half: bool = False
    log: Path | None = None
    count: int = 0
    _open: dict[int, Path] = field(default_factory=dict)

    def below(self, path: object) -> Path | None:
        """The absolute path, if it is below the root."""
        if isinstance(path, int):
            return self._open.get(path)
        whole = Path(os.path.abspath(os.fsdecode(path)))  # type: ignore[arg-type]
        return whole if whole.is_relative_to(self.root) else None

    def at(self, kind: str, path: Path, write_half: Callable[[], object] | None = None) -> None:
        """An operation is about to happen: count it, or end here."""
        self.count += 1
        if self.log is not None:
            line = f"{kind} {path.relative_to(self.root)}\n"
            with _OPEN(self.log, "a") as file:
                file.write(line)
        if self.count != self.kill_at:
            return
        if self.half:
            if write_half is None:
                return
            write_half()
        os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        """Patch everything, also where a module has imported a function by its name."""
        tempfile.tempdir = None
        tempfile.gettempdir()  # Python tries its folders here, with files of its own
        changed: dict[Function, Function] = {}
        for name, paths in PATHS.items():
            changed[getattr(os, name)] = self._on_paths(name, getattr(os, name), paths)
        for name in DESCRIPTORS:
            changed[getattr(os, name)] = self._on_descriptor(name, getattr(os, name))
        changed[os.write] = self._write
        changed[os.open] = self._os_open
        changed[os.close] = self._close
        changed[io.open] = self._io_open
        for module in [*sys.modules.values()]:
            # Those that a wrapper here calls must stay what they are.
            if module is sys.modules[__name__] or module is None:
                continue
            held = getattr(module, "__dict__", {})
            for name, value in [*held.items()]:
                if type(value) is _BUILTIN and value in changed:
                    held[name] = changed[value]
        builtins.open = self._io_open
        # Through write() instead of one call of the kernel's, or of C's for a descriptor.
        shutil._USE_CP_SENDFILE = False  # type: ignore[attr-defined]
        shutil._USE_CP_COPY_FILE_RANGE = False  # type: ignore[attr-defined]
        array_files = sys.modules.get("numpy.lib._format_impl")
        if array_files is not None:
            array_files.isfileobj = lambda _: False  # type: ignore[attr-defined]

    def _on_paths(self, name: str, original: Function, paths: int) -> Function:
        def patched(*given: Any, **options: Any) -> Any:
            found = [self.below(path) for path in given[:paths] if not _relative(options)]
            inside = [path for path in found if path is not None]
            if _relative(options):
                inside = [self._in_folder(options, given[0])]
            if inside:
                self.at(name, inside[-1])
            return original(*given, **options)

        return patched

    def _in_folder(self, options: dict[str, Any], name: object) -> Path:
        """The path of a name in a folder that is open (`shutil.rmtree` removes so)."""
        descriptor = next(options[key] for key in _FOLDERS if options.get(key) is not None)
        folder = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        path = folder / os.fsdecode(name)  # type: ignore[arg-type]
        return path if path.is_relative_to(self.root) else self.root

    def _on_descriptor(self, name: str, original: Function) -> Function:
        def patched(descriptor: int, *given: Any, **options: Any) -> Any:
            number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
            path = self._open.get(number) or self._named(number)
            if path is not None:
                self.at(name, path)
            return original(descriptor, *given, **options)

        return patched

    def _named(self, descriptor: int) -> Path | None:
        """What the kernel knows a descriptor as, such as a folder that is only flushed."""
        return self.below(os.readlink(f"/proc/self/fd/{descriptor}"))

    def _write(self, descriptor: int, data: Any) -> int:
        path = self._open.get(descriptor)
        if path is not None:
            part = memoryview(data)[: len(data) // 2]
            self.at("write", path, lambda: _WRITE(descriptor, part))
        return _WRITE(descriptor, data)

    def _os_open(self, path: Any, flags: int, *given: Any, **options: Any) -> int:
        whole = self.below(path) if flags & WRITING and not _relative(options) else None
        if whole is not None:
            self.at("open", whole)
        descriptor = _OS_OPEN(path, flags, *given, **options)
        if whole is not None:
            self._open[descriptor] = whole
        return descriptor

    def _close(self, descriptor: int) -> None:
        self._open.pop(descriptor, None)
        _CLOSE(descriptor)

    def _io_open(
        self,
        file: Any,
        mode: str = "r",
        buffering: int = -1,
        encoding: str | None = None,
        errors: str | None = None,
        newline: str | None = None,
        closefd: bool = True,
        opener: Any = None,
    ) -> Any:
        path = self.below(file) if set(mode) & set("wax+") else None
        if path is None:
            given = (buffering, encoding, errors, newline, closefd, opener)
            return _OPEN(file, mode, *given)
        raw = _File(self, path, file, mode.replace("b", "").replace("t", ""), closefd, opener)
        if buffering == 0:
            return raw
        size = io.DEFAULT_BUFFER_SIZE if buffering in (-1, 1) else buffering
        buffer = (io.BufferedRandom if "+" in mode else io.BufferedWriter)(raw, size)
        if "b" in mode:
            return buffer
        text = io.TextIOWrapper(buffer, encoding, errors, newline, buffering == 1)
        text.mode = mode  # type: ignore[misc]
        return text


class _File(io.FileIO):
    """A file that is written; each call of the kernel's is one operation."""

    def __init__(
        self, operations: Operations, path: Path, file: Any, mode: str, closefd: bool, opener: Any
    ) -> None:
        self._operations, self._path = operations, path
        if not isinstance(file, int):
            operations.at("open", path)
        super().__init__(file, mode, closefd, opener)

    def write(self, data: Any) -> int:
        half = bytes(data)[: len(data) // 2]
        self._operations.at("write", self._path, lambda: super(_File, self).write(half))
        return super().write(data)

    def truncate(self, size: int | None = None) -> int:
        self._operations.at("truncate", self._path)
        return super().truncate(size)


_OPEN, _OS_OPEN, _WRITE, _CLOSE = io.open, os.open, os.write, os.close
_BUILTIN = type(os.write)
_FOLDERS = ("dir_fd", "src_dir_fd", "dst_dir_fd")


def _relative(options: dict[str, Any]) -> bool:
    return any(options.get(key) is not None for key in _FOLDERS)

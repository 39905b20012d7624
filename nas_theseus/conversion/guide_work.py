"""The guide's tensors for a sample, cached in files that processes and searches share."""

from __future__ import annotations

import hashlib
import logging
import os
import zlib
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from nas_theseus.errors import StorageError
from nas_theseus.guide.chain import Guide
from nas_theseus.storage.json_files import is_own_file
from nas_theseus.storage.whole_files import replacing
from nas_theseus.values.fingerprint import fingerprint
from nas_theseus.values.ids import short_hash

logger = logging.getLogger(__name__)

WORK_LIMIT_BYTES = 8 << 30

# Behind the numbers stands their checksum; NumPy passes over it.
_MARK = b"crc32"
# Files that this process has verified, by path, inode and size.
_VERIFIED: set[tuple[str, int, int]] = set()


def _verify(path: Path, mapped: np.memmap) -> None:
    """Compare a file with its header and its checksum, once in a process.

    Files of earlier versions have no checksum.

    Raises:
        ValueError: they differ.
    """
    with path.open("rb") as file:
        state = os.fstat(file.fileno())
        known = (str(path), state.st_ino, state.st_size)
        if known in _VERIFIED:
            return
        end = file.seek(mapped.offset + mapped.nbytes)
        rest = file.read(len(_MARK) + 5)
    if not mapped.dtype.isnative or (rest and len(rest) != len(_MARK) + 4) or end > state.st_size:
        raise ValueError("its header says something else than its size")
    if rest and rest != _MARK + zlib.crc32(mapped.data).to_bytes(4, "big"):
        raise ValueError("the checksum does not match")
    _VERIFIED.add(known)


class GuideWork:
    """Tensors that a guide computes for a sample, saved in files and mapped into memory.

    All processes of a machine share the pages of a mapped file, so that a tensor is in memory only
    once, for any number of candidates. If a tensor cannot be saved (a full disk, a folder that
    cannot be written), each process computes it, with a warning.

    Args:
        folder: folder of the files, which can be deleted at any time. They have at most
            `limit_bytes` in total: new files replace those that were not read for the longest time.
        guide: guide with its weights, on `device`.
        sample: inputs, shape (N, *inlet).
        device: device of the results. They differ in their last bits between kinds of devices,
            versions of torch and numbers of threads, so each has its own files.
    """

    def __init__(
        self,
        folder: Path,
        guide: Guide,
        sample: Tensor,
        device: torch.device,
        limit_bytes: int = WORK_LIMIT_BYTES,
    ) -> None:
        self._folder, self._device, self._limit_bytes = folder, device, limit_bytes
        content = hashlib.sha256(sample.numpy(force=True).tobytes()).hexdigest()
        self._key = short_hash(
            [
                guide.content_hash(),
                fingerprint(guide),
                [*sample.shape],
                str(sample.dtype),
                content,
                device.type,
                torch.get_num_threads(),
                torch.__version__,
            ],
            16,
        )

    def holds(self, name: str) -> bool:
        """Whether a tensor has a file."""
        return self._path(name).exists()

    def _path(self, name: str) -> Path:
        return self._folder / f"{self._key}-{name}.npy"

    def get(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """A tensor on the device: loaded if it was saved, otherwise computed and saved.

        Args:
            name: name of the tensor, of letters, digits and hyphens.
        """
        path = self._path(name)
        with ExitStack() as stack:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                # Other processes that need it wait here instead of computing it too.
                stack.enter_context(FileLock(path.with_suffix(".lock")))
                found = self._read(path)
            except OSError as error:
                self._warn(name, error)
                return compute()
            if found is not None:
                return found
            found = compute()
            try:
                self._write(path, found)
                mapped = self._read(path)
            except (OSError, StorageError) as error:
                self._warn(name, error)
                return found
            return found if mapped is None else mapped

    def _warn(self, name: str, error: Exception) -> None:
        logger.warning("the guide's %s cannot be saved in %s: %s", name, self._folder, error)

    def _read(self, path: Path) -> Tensor | None:
        """The saved tensor; None if there is no complete file."""
        try:
            # Copy-on-write, though nothing writes to it. Aligned to 64 bytes like torch's own
            # memory, since last bits of results can depend on the alignment.
            if not is_own_file(path):
                if path.is_symlink():
                    path.unlink()  # it could stand for any file
                return None
            mapped = np.lib.format.open_memmap(path, mode="c")
            _verify(path, mapped)
        except FileNotFoundError:
            return None
        except OSError:
            raise
        except Exception:  # NumPy's reader of headers raises what its parser does
            path.unlink()
            return None
        os.utime(path)
        found = torch.from_numpy(mapped)
        # NumPy has no bfloat16: a file of 16-bit numbers holds its bits.
        found = found.view(torch.bfloat16) if mapped.dtype == np.uint16 else found
        return found.to(self._device)

    def _write(self, path: Path, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if size > self._limit_bytes:
            return
        kept = sorted(self._folder.glob("*.npy"), key=lambda file: file.stat().st_mtime)
        total = size + sum(file.stat().st_size for file in kept)
        for oldest in kept:
            if total <= self._limit_bytes:
                break
            total -= oldest.stat().st_size
            oldest.unlink()  # processes that have mapped it can still read it
        with replacing(path) as aside, aside.open("wb") as file:
            halved = tensor.dtype == torch.bfloat16
            bits = tensor.contiguous().view(torch.uint16) if halved else tensor
            array = bits.numpy(force=True)
            np.save(file, array, allow_pickle=False)
            file.write(_MARK + zlib.crc32(array.data).to_bytes(4, "big"))

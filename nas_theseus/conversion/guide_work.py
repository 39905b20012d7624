"""What a guide makes of a sample, kept in files: computed once for all processes and searches."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from filelock import FileLock
from torch import Tensor

from nas_theseus.errors import StorageError
from nas_theseus.guide.chain import Guide
from nas_theseus.storage.whole_files import replacing
from nas_theseus.values.fingerprint import fingerprint
from nas_theseus.values.ids import short_hash

logger = logging.getLogger(__name__)


class GuideWork:
    """Tensors that a guide makes of a sample, spilled to files and mapped into memory.

    The processes of a machine share the pages of a mapped file, so that a tensor is held once
    however many candidates run beside each other. What cannot be kept (a full disk, a folder that
    cannot be written) is computed by each process, with a warning.

    Args:
        folder: its files can be deleted at any time. Together they take `limit_bytes` at most: new
            ones take the place of those that were not read for the longest time.
        guide: on `device`, with its weights.
        sample: inputs, shape (N, *inlet).
        device: results differ in their last bits between kinds of devices, versions of torch and
            numbers of threads, so each has files of its own.
    """

    def __init__(
        self,
        folder: Path,
        guide: Guide,
        sample: Tensor,
        device: torch.device,
        limit_bytes: int = 8 << 30,
    ) -> None:
        self._folder, self._device, self._limit_bytes = folder, device, limit_bytes
        content = hashlib.sha256(sample.numpy(force=True).tobytes()).hexdigest()
        self._key = short_hash(
            [
                guide.content_hash(), fingerprint(guide), [*sample.shape], str(sample.dtype),
                content, device.type, torch.get_num_threads(), torch.__version__,
            ],
            16,
        )  # fmt: skip

    def get(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """A tensor on the device: the one that is kept, or computed now and kept.

        Args:
            name: what it is, in letters, digits and hyphens.
        """
        path = self._folder / f"{self._key}-{name}.npy"
        with ExitStack() as stack:
            try:
                self._folder.mkdir(parents=True, exist_ok=True)
                # Others that need it wait here instead of computing it, too.
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
        logger.warning("the guide's %s is not kept in %s: %s", name, self._folder, error)

    def _read(self, path: Path) -> Tensor | None:
        """None where there is no whole file."""
        try:
            # Copied where written to, which nobody does. Aligned to 64 bytes, as torch's own memory
            # is: what is computed of it may depend on that in its last bits.
            mapped = np.lib.format.open_memmap(path, mode="c")
        except FileNotFoundError:
            return None
        except ValueError:
            path.unlink()
            return None
        os.utime(path)
        return torch.from_numpy(mapped).to(self._device)

    def _write(self, path: Path, tensor: Tensor) -> None:
        size = tensor.numel() * tensor.element_size()
        if size > self._limit_bytes or tensor.dtype == torch.bfloat16:  # which NumPy lacks
            return
        kept = sorted(self._folder.glob("*.npy"), key=lambda file: file.stat().st_mtime)
        total = size + sum(file.stat().st_size for file in kept)
        for oldest in kept:
            if total <= self._limit_bytes:
                break
            total -= oldest.stat().st_size
            oldest.unlink()  # who has mapped it keeps it
        with replacing(path) as aside, aside.open("wb") as file:
            np.save(file, tensor.numpy(force=True), allow_pickle=False)

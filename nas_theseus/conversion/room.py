"""Whether a guide's activations fit on disk and in memory, checked before they are computed."""

from __future__ import annotations

import math
import os
import re
import shutil
from pathlib import Path

import torch

from nas_theseus.conversion.guide_work import WORK_LIMIT_BYTES
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide

_MEMINFO = Path("/proc/meminfo")


def require_room(
    guide: Guide,
    examples: int,
    memory_limit_bytes: int,
    free_bytes: int,
    folder: Path | None = None,
    last: int | None = None,
) -> None:
    """Refuse a sample whose activations in bfloat16 fit neither on disk nor in memory.

    Args:
        memory_limit_bytes: memory that activations may take.
        free_bytes: memory that is free, for activations and for the boundary in use.
        folder: folder of their files. Default: all of them have to be in memory.
        last: last boundary that anyone will ask for. Default: the outputs.

    Raises:
        ConversionError: there is too little room; the message says how many examples would fit.
    """
    counted = guide.boundaries[1 : (len(guide) if last is None else last) + 1]
    sizes = [math.prod(boundary.shape) for boundary in counted]
    each = sum((8 if b.integer else 2) * size for b, size in zip(counted, sizes, strict=True))
    # Float32 copies of the boundary in use: as inputs, goals, outputs and gradients of a block.
    used = 4 * 4 * max(sizes, default=0)
    if not each:
        return
    fits = min(memory_limit_bytes // each, free_bytes // (each + used))
    room = f"{_shown(min(memory_limit_bytes, free_bytes))} in memory"
    if folder is not None:
        on_disk = disk_room_bytes(folder)
        fits = max(fits, min(on_disk // each, free_bytes // used))
        room += f" and {_shown(on_disk)} in {folder}"
    if examples > fits:
        raise ConversionError(
            f"the guide's activations of {examples:,} examples at {len(counted)} boundaries take "
            f"{_shown(examples * each)} in bfloat16, and {_shown(examples * used)} of memory for "
            f"the one in use; there are {room}. {fits:,} examples would fit: set align_examples "
            "to at most that, or free disk or memory"
        )


def free_memory_bytes(device: torch.device) -> int:
    """Memory that is free on a device; all of the machine's where the system does not say more."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if _MEMINFO.exists():
        found = re.search(r"^MemAvailable:\s+(\d+) kB", _MEMINFO.read_text(), re.MULTILINE)
        if found:
            return int(found[1]) * 1024
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def disk_room_bytes(folder: Path) -> int:
    """How much a folder of the guide's work can hold, including the files that are in it now."""
    held = sum(path.stat().st_size for path in folder.glob("*.npy"))
    existing = next(p for p in (folder, *folder.absolute().parents) if p.is_dir())
    return min(WORK_LIMIT_BYTES, shutil.disk_usage(existing).free + held)


def _shown(count: float) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"

"""GPUs: whether torch was built for one, sees one, and can compute on it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nas_theseus.api.doctor import Asked, Finding

_DRIVER = Path("/dev/nvidiactl")
_INSTALL = "install the build of torch for your driver: https://pytorch.org/get-started/locally"
_FULL = (
    "its memory is full: see nvidia-smi for who uses it, or choose another by CUDA_VISIBLE_DEVICES"
)


def check(_: Asked) -> Iterator[Finding]:
    """One finding a GPU, or why there is none. A search runs without one."""
    import torch

    driver = _DRIVER.exists()
    if torch.version.cuda is None and torch.version.hip is None:
        if driver:
            said = f"there is an NVIDIA driver, but torch {torch.__version__} is built for CPUs"
            yield Finding("GPU", "missing", said, _INSTALL, needed=False)
        else:
            yield Finding("GPU", "ok", "none here; trials run on the CPU", needed=False)
        return
    if not torch.cuda.is_available():
        if driver:
            said = f"torch {torch.__version__} (CUDA {torch.version.cuda}) sees no GPU"
            remedy = (
                f"see nvidia-smi and CUDA_VISIBLE_DEVICES; if both are as they should, {_INSTALL}"
            )
            yield Finding("GPU", "broken", said, remedy, needed=False)
        else:
            yield Finding("GPU", "ok", "none here; trials run on the CPU", needed=False)
        return
    for index in range(torch.cuda.device_count()):
        yield _computes(index)


def _computes(index: int) -> Finding:
    import torch

    known = torch.cuda.get_device_properties(index)
    said = f"{known.name}, {known.total_memory / 2**30:.0f} GiB"
    try:
        one = torch.ones(2, 2, device=f"cuda:{index}")
        torch.cuda.synchronize(index)
        works = bool((one @ one == 2).all())
    except RuntimeError as error:
        reason = str(error).partition("\n")[0]
        full = isinstance(error, torch.OutOfMemoryError)
        remedy = _FULL if full else _INSTALL
        return Finding(f"GPU {index}", "broken", f"{said}: {reason}", remedy, needed=False)
    if not works:
        remedy = (
            "see nvidia-smi -q for errors of its memory, and leave it out (CUDA_VISIBLE_DEVICES)"
        )
        return Finding(f"GPU {index}", "broken", f"{said}: wrong sums", remedy, needed=False)
    return Finding(f"GPU {index}", "ok", f"{said}; use --gpus-per-trial 1", needed=False)


MEMBER = check

"""Read a network's weights from files, and prepare them for writing."""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TypeGuard

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nas_theseus.errors import GuideError
from nas_theseus.storage.whole_files import DIGEST, digest

# Where training scripts put the state dict in a checkpoint, and what wrappers (DataParallel,
# torch.compile, Lightning) put in front of its names.
_NESTED = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.", "model.")
_GLOBAL = re.compile(r"GLOBAL ([\w.]+)")
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")

_REBUILDING: ContextVar[bool] = ContextVar("rebuilding", default=False)


@contextmanager
def rebuilding() -> Iterator[None]:
    """Context for rebuilding a found network: `cut` does not need the guide's weights file."""
    token = _REBUILDING.set(True)
    try:
        yield
    finally:
        _REBUILDING.reset(token)


def is_rebuilding() -> bool:
    """Whether a found network is being rebuilt, whose weights are loaded later."""
    return _REBUILDING.get()


def load_given_weights(model: nn.Module, weights: str | Path | None) -> None:
    """Load a guide's weights file, if one is given and no found network is being rebuilt."""
    if weights is not None and not is_rebuilding():
        load_weights(model, weights)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into a model, from safetensors or a checkpoint of tensors.

    Prefixes that wrappers add to all names are removed if the names do not fit otherwise.

    Raises:
        GuideError: the file is missing or damaged, or its names or shapes do not fit the model.
    """
    expected = model.state_dict()
    model_state = _without_prefixes(read_weights(path), expected)
    wrong = [
        f"{name}: file {tuple(tensor.shape)}, model {tuple(expected[name].shape)}"
        for name, tensor in model_state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    # A file may contain only one name of tied weights, as Hugging Face's do.
    given = {expected[name].data_ptr() for name in model_state if name in expected}
    missing = sorted(
        name
        for name, tensor in expected.items()
        if name not in model_state and tensor.data_ptr() not in given
    )
    unknown = sorted(set(model_state) - set(expected))
    if wrong or missing or unknown:
        said = [*wrong[:3], *(f"{name}: not in the file" for name in missing[:3])]
        said += [f"{name}: not in the model" for name in unknown[:3]]
        count = len(wrong) + len(missing) + len(unknown)
        raise GuideError(
            f"weights {path} do not fit {type(model).__name__}: {count} differences, first: "
            + "; ".join(said)
        )
    model.load_state_dict(dict(model_state), strict=False)


def _without_prefixes(
    state: Mapping[str, Tensor], model: Mapping[str, Tensor]
) -> Mapping[str, Tensor]:
    """A state dict without the prefixes of all its names, removed until a name is in the model."""
    found = state
    while found and not any(name in model for name in found):
        prefix = next((p for p in _PREFIXES if all(n.startswith(p) for n in found)), None)
        if prefix is None:
            return state
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
    return found


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """A state dict from safetensors or a checkpoint of tensors; never unpickles code.

    In a checkpoint, the state dict may be nested under ``state_dict``, ``model_state_dict`` or
    ``model``, next to numbers and the state of an optimizer.

    Raises:
        GuideError: the file is missing, empty or damaged, or has more than tensors and numbers.
    """
    file = Path(path)
    if not file.is_file():
        raise GuideError(f"weights file {file} does not exist; pass the path of a state dict")
    if file.stat().st_size == 0:
        raise GuideError(
            f"weights file {file} is empty (0 bytes), possibly after an interrupted copy; copy or "
            "save it again"
        )
    try:
        if file.suffix == ".safetensors":
            return read_safetensors(file)
        if tarfile.is_tarfile(file):  # torch unpacks those that it wrote before 2017
            raise ValueError("it is a tar file, which is not unpacked")
        checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # OSError, SafetensorError, RuntimeError, UnpicklingError, …
        raise GuideError(_unreadable(file, error)) from error
    return _state_in(checkpoint, file)


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, compared with its digest, if it has one.

    Raises:
        ValueError, safetensors.SafetensorError: the file is damaged.
        OSError: it cannot be read.
    """
    state = safetensors.torch.load_file(file)
    with safetensors.safe_open(file, "pt") as opened:
        metadata = opened.metadata() or {}
    if metadata.get(DIGEST, "") not in ("", digest(state)):
        raise ValueError("its SHA-256 differs from the one that it was saved with")
    return state


def _state_in(checkpoint: object, file: Path) -> Mapping[str, Tensor]:
    """The state dict that a checkpoint is or contains."""
    if _is_state(checkpoint):
        return checkpoint
    names = list(checkpoint) if isinstance(checkpoint, Mapping) else []
    held = {name: checkpoint[name] for name in _NESTED if name in names}  # type: ignore[index]
    states = {name: state for name, state in held.items() if _is_state(state)}
    if len(states) > 1:
        raise GuideError(
            f"{file} holds several state dicts ({', '.join(states)}); save the one to use to a "
            "separate file"
        )
    for state in states.values():
        return state
    inside = ", ".join(map(str, names[:5])) or f"a value of type {type(checkpoint).__name__}"
    raise GuideError(
        f"weights file {file} holds no state dict (names to tensors), but {inside}; save "
        f"model.state_dict(), by itself or under {', '.join(_NESTED[:-1])} or {_NESTED[-1]}"
    )


def _is_state(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(name, str) and isinstance(t, Tensor) for name, t in value.items())
    )


def _unreadable(file: Path, error: Exception) -> str:
    """Why a weights file cannot be read, and what helps."""
    said = _ESCAPES.sub("", str(error))
    if foreign := _GLOBAL.search(said):
        return (
            f"weights file {file} holds an object of {foreign[1]}, which is not read, as reading "
            "it could run code. If you trust the file, load it with torch.load(..., "
            "weights_only=False) and save the state dict in it to a file of its own"
        )
    if "TorchScript" in said:
        return (
            f"weights file {file} is a TorchScript archive; save torch.jit.load(...).state_dict() "
            "to a file of its own"
        )
    reason = said.partition("\n")[0].partition(". ")[0].rstrip(".")
    return (
        f"weights file {file} is damaged, or is neither safetensors nor a checkpoint of tensors "
        f"({type(error).__name__}: {reason}). Copy it again, or save model.state_dict() again"
    )


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A state dict whose tensors are contiguous CPU copies, as safetensors wants them.

    Tied weights are written once a name, so that loading needs no knowledge of the tie.
    """
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in module.state_dict().items()
    }

"""Weights of a network: read from files, written as plain tensors."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nas_theseus.errors import GuideError

_REBUILDING: ContextVar[bool] = ContextVar("rebuilding", default=False)


@contextmanager
def rebuilding() -> Iterator[None]:
    """While a found network is rebuilt, `cut` does not ask for the guide's own weights file."""
    token = _REBUILDING.set(True)
    try:
        yield
    finally:
        _REBUILDING.reset(token)


def load_given_weights(model: nn.Module, weights: str | Path | None) -> None:
    """Load a guide's own weights, if any are given and no found network is being rebuilt."""
    if weights is not None and not _REBUILDING.get():
        load_weights(model, weights)


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Load a state dict into a model, from safetensors or a weights-only checkpoint.

    Raises:
        GuideError: the file is missing or damaged, or its names and shapes are of another model.
    """
    model_state = read_weights(path)
    expected = model.state_dict()
    wrong = [
        f"{name}: file {tuple(tensor.shape)}, model {tuple(expected[name].shape)}"
        for name, tensor in model_state.items()
        if name in expected and tensor.shape != expected[name].shape
    ]
    # Of tied weights a file may hold one name only, as Hugging Face's do.
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


def read_weights(path: str | Path) -> Mapping[str, Tensor]:
    """A state dict from a safetensors file or a weights-only checkpoint; never unpickles code.

    Raises:
        GuideError: the file is missing, damaged, or holds more than tensors.
    """
    file = Path(path)
    if not file.is_file():
        raise GuideError(f"weights file {file} does not exist; give the path of a state dict")
    try:
        if file.suffix == ".safetensors":
            return safetensors.torch.load_file(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, EOFError, safetensors.SafetensorError) as error:
        raise GuideError(_damaged(file, error)) from error
    except Exception as error:  # weights_only raises pickle.UnpicklingError and its like
        raise GuideError(_damaged(file, error)) from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise GuideError(f"{file} holds no state dict (names to tensors); save model.state_dict()")
    return state


def _damaged(file: Path, error: Exception) -> str:
    return (
        f"weights file {file} is damaged or not safetensors / a weights-only checkpoint: "
        f"{str(error).splitlines()[0]}. Delete it (a guide trained here is then trained again) or "
        "save it anew with safetensors"
    )


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """A state dict whose tensors are contiguous CPU copies, as safetensors wants them.

    Tied weights are written once a name, so that loading needs no knowledge of the tie.
    """
    return {
        name: tensor.detach().cpu().clone().contiguous()
        for name, tensor in module.state_dict().items()
    }

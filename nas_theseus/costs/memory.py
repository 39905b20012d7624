"""Peak memory of one forward, measured."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nas_theseus.costs.multiply_adds import unfused_attention
from nas_theseus.costs.probe import eval_view
from nas_theseus.errors import CostError
from nas_theseus.guide.chain import example_input
from nas_theseus.values.architecture import Boundary


def _state_bytes(module: nn.Module) -> int:
    """Bytes of the storages of parameters and buffers, each shared storage counted once."""
    storages = [tensor.untyped_storage() for tensor in (*module.parameters(), *module.buffers())]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


class _LiveStorages(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tracks the bytes of storages that operators return, until each is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = 0
        self.peak_bytes = 0
        self._watched: set[int] = set()

    def watch(self, tensors: Iterable[object], *, count: bool = True) -> None:
        """Track the tensors' storages from now on; without `count` they add no bytes."""
        for tensor in tensors:
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._watched:
                continue
            size = storage.nbytes() if count else 0
            self._watched.add(key)
            self.live_bytes += size
            weakref.finalize(storage, self._release, key, size)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _release(self, key: int, size: int) -> None:
        self._watched.discard(key)
        self.live_bytes -= size

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        outputs = func(*args, **(kwargs or {}))
        self.watch(tree_leaves(outputs))
        return outputs


def _cpu_peak(view: nn.Module, inputs: Tensor) -> int:
    storages = _LiveStorages()
    storages.watch((*view.parameters(), *view.buffers()), count=False)
    storages.watch([inputs])
    # Inference mode and fused transformer kernels hide the tensors inside a compound operator.
    with torch.no_grad(), unfused_attention(), storages:
        view(inputs)
    return storages.peak_bytes


def _cuda_peak(view: nn.Module, inputs: Tensor) -> int:
    device = inputs.device
    with torch.inference_mode():
        view(inputs)  # so that libraries' permanent workspaces do not count as activations
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        view(inputs)
        torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before + inputs.untyped_storage().nbytes()


def measure_peak_memory(
    module: nn.Module, inlet: Boundary, *, batch: int = 1, device: torch.device | str
) -> int:
    """Peak bytes allocated during one forward pass in evaluation mode without gradients.

    Counts parameters and buffers (shared storages once), the input, and the activations at the
    moment when they take most memory. On CUDA, activations are the caching allocator's peak above
    its level before the forward pass, which includes kernels' temporary workspaces and excludes
    other models. On the CPU, they are the largest sum of live tensor storages after any operator:
    exact and the same on every machine, but without scratch memory inside kernels. Fused
    transformer kernels are switched off on the CPU, as they hide their tensors.

    Args:
        inlet: shape of one input; the module runs on (batch, *inlet.shape).
        device: a CPU or CUDA device; the module is copied there if it is elsewhere.

    Raises:
        CostError: the device is neither, or the module cannot be copied.
        ValueError: batch < 1.
    """
    place = torch.device(device)
    measures = {"cpu": _cpu_peak, "cuda": _cuda_peak}
    if place.type not in measures:
        raise CostError(
            f"peak memory is measured on {' and '.join(measures)} only, not on {place.type!r}; "
            "measure there or leave peak_memory_bytes out of objectives and constraints"
        )
    view = eval_view(module, place)
    inputs = example_input(view, inlet, batch).to(place)
    return _state_bytes(view) + measures[place.type](view, inputs)

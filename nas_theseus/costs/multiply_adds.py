"""Multiply-adds of a module for one input, counted by fvcore over a trace."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from nas_theseus.costs.operators import FREE, HANDLES
from nas_theseus.costs.probe import eval_view
from nas_theseus.errors import CostError
from nas_theseus.guide.chain import device_of, example_input
from nas_theseus.values.architecture import Boundary


@contextmanager
def unfused_attention() -> Iterator[None]:
    """Switch torch's fused transformer kernels off, so that every operator is visible."""
    enabled = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(enabled)


@cache
def _fvcore() -> Any:
    """Fvcore's counter, imported on first use, since the import takes seconds and warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        from fvcore.nn import FlopCountAnalysis  # type: ignore[import-untyped]
    return FlopCountAnalysis


def _record_calls(view: nn.Module) -> set[str]:
    """Names of submodules with own parameters that ran, filled in during the trace.

    A module that only returns one of its parameters does no work and is left out.
    """
    called: set[str] = set()

    def watch(name: str, module: nn.Module) -> None:
        own = {id(parameter) for parameter in module.parameters(recurse=False)}

        def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
            if not (isinstance(output, Tensor) and id(output) in own):
                called.add(name)

        if own:
            module.register_forward_hook(hook)

    for name, module in view.named_modules():
        watch(name, module)
    return called


def count_macs(module: nn.Module, inlet: Boundary) -> int:
    """Multiply-adds of one forward at batch 1 in evaluation mode, counted with fvcore.

    Linear maps and attention products count; normalisation, activations and other element-wise
    work count 0 (listed in `nas_theseus.costs.operators`). Attention masks do not reduce the count.
    Submodules that do not run in evaluation mode (auxiliary heads, unselected stitches) cost
    nothing. Tracing drops operators whose result reaches no output; a module is refused if a
    submodule's work is dropped in this way or happens outside the trace.

    Training flags, buffers, hooks and the global random state are not changed.

    Args:
        module: maps (1, *inlet.shape) to tensors; run on its own device and dtype.
        inlet: shape of one input.

    Raises:
        CostError: an operator has no count, the module cannot run on the inlet, or a submodule's
            work is missing from the trace; the message names it.
    """
    name = type(module).__name__
    view = eval_view(module)
    called = _record_calls(view)
    analysis = _fvcore()(view, (example_input(view, inlet),))
    analysis.clear_op_handles().set_op_handle(**HANDLES, **dict.fromkeys(FREE))
    analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
    device = device_of(view)
    cuda = [device] if device.type == "cuda" else []
    try:
        with (
            torch.no_grad(),
            unfused_attention(),
            torch.random.fork_rng(cuda),
            warnings.catch_warnings(),
        ):
            # Torch deprecates the tracer that fvcore is built on.
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.jit")
            macs = int(analysis.total())
    except CostError as error:
        raise CostError(f"multiply-adds of {name} on {inlet} cannot be counted: {error}") from error
    except Exception as error:
        raise CostError(
            f"multiply-adds of {name} on {inlet} cannot be counted: tracing it failed with "
            f"{type(error).__name__}: {error}. It must take one tensor of that shape and return "
            "tensors."
        ) from error
    unknown = sorted(analysis.unsupported_ops())
    if unknown:
        raise CostError(
            f"multiply-adds of {name} on {inlet} cannot be counted: no count is known for "
            f"{', '.join(unknown)}. Replace the operator, or add a handle or a reason why it is "
            "free to nas_theseus/costs/operators.py."
        )
    unseen = sorted(called & analysis.uncalled_modules())
    if unseen:
        raise CostError(
            f"multiply-adds of {name} on {inlet} cannot be counted: submodules "
            f"{', '.join(unseen)} run, but the output's trace shows none of their work. Return "
            "what they compute, or do not call them in evaluation mode."
        )
    return macs

"""Evaluation-mode view of a module, on which costs are counted and measured."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nas_theseus.errors import CostError
from nas_theseus.guide.chain import device_of


def eval_view(module: nn.Module, device: torch.device | None = None) -> nn.Module:
    """A copy of the module in evaluation mode that shares its parameters.

    Counting and measuring run on the view, so the module's training flags, buffers, hooks and any
    Python state that its forward writes stay unchanged, even if the run fails. If `device` is
    another device, the parameters are copied too.

    Raises:
        CostError: the module contains something that cannot be copied.
    """
    memo: dict[int, object] = {id(parameter): parameter for parameter in module.parameters()}
    memo.update((id(buffer), buffer.detach().clone()) for buffer in module.buffers())
    for child in module.modules():
        # Plain tensor attributes (old-style weight_norm) may be non-leaf, which deepcopy refuses.
        memo.update(
            (id(value), value.detach().clone())
            for value in vars(child).values()
            if isinstance(value, Tensor) and id(value) not in memo
        )
    try:
        view = copy.deepcopy(module, memo)
        here = device_of(module)
        if device is not None and (
            device.type != here.type or device.index not in (None, here.index)
        ):
            view = copy.deepcopy(view).to(device)
    except Exception as error:
        raise CostError(
            f"{type(module).__name__} cannot be copied, so its cost cannot be determined without "
            f"changing it: {error}. Keep locks, files and other live objects out of the module."
        ) from error
    return view.eval()

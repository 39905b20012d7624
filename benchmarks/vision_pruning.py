"""Structured pruning as the rival of the benchmark of vision networks: Torch-Pruning.

Source: Fang et al. 2023 (DepGraph), arXiv:2301.12900. Channels of all layers are ranked together
(global pruning), or those of each layer, in many small steps, between which importance is computed
again.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn

from nas_theseus.costs import count_macs
from nas_theseus.errors import LimitError
from nas_theseus.tasks import Batch
from nas_theseus.values.architecture import Boundary

# Of the channels, so many equal steps; gradients are computed again after a few of them.
STEPS, GRADIENTS_EVERY = 100, 5
# Every layer keeps at least this share of its channels, as Torch-Pruning's examples advise.
LEAST = 0.04

Loss = Callable[[nn.Module, Batch, bool], Tensor]


def _importances() -> dict[str, Any]:
    """By method; those in `NEEDS_GRADIENTS` read `.grad`."""
    found = torch_pruning.importance
    return {
        "magnitude": found.GroupMagnitudeImportance(p=2),
        "taylor": found.GroupTaylorImportance(),
        "bn_scale": found.BNScaleImportance(),
    }


IMPORTANCES = ("magnitude", "taylor", "bn_scale")
NEEDS_GRADIENTS = {"taylor"}


@dataclass(frozen=True)
class Pruned:
    """A pruned network.

    Attributes:
        macs: multiply-adds of one forward pass.
        prune_macs: multiply-adds of the gradients that importance took.
    """

    network: nn.Module
    macs: int
    prune_macs: int


def prune(
    guide: nn.Module,
    inlet: Boundary,
    importance: str,
    limit: int,
    batches: Callable[[], Iterable[Batch]] = list,
    loss: Loss | None = None,
    uniform: bool = False,
) -> Pruned:
    """Prune a copy of a network until it has at most `limit` multiply-adds.

    The last linear layer keeps its outputs.

    Args:
        inlet: shape of one input.
        importance: of `IMPORTANCES`.
        batches: what gradients are computed on.
        loss: of the network on a batch; it is told whether nothing has been pruned yet.
        uniform: every layer loses the same share, as is Torch-Pruning's default. Default: channels
            of all layers are ranked together.

    Raises:
        LimitError: even at the least widths it has more multiply-adds.
    """
    network = copy.deepcopy(guide).eval().requires_grad_(True)
    example = torch.zeros(2, *inlet.shape)
    classifier = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the package: parameters that it cannot prune
        pruner = torch_pruning.pruner.BasePruner(
            network,
            example,
            importance=_importances()[importance],
            global_pruning=not uniform,
            pruning_ratio=1 - LEAST,
            max_pruning_ratio=1 - LEAST,
            iterative_steps=STEPS,
            ignored_layers=[classifier],
        )
    macs, spent = _about(network, example[:1]), 0
    for step in range(STEPS):
        if macs <= limit:
            break
        if importance in NEEDS_GRADIENTS and step % GRADIENTS_EVERY == 0:
            assert loss is not None
            spent += _gradients(network, batches(), loss, step == 0) * 3 * macs
        pruner.step()
        macs = _about(network, example[:1])
    if macs > limit:
        raise LimitError(
            f"{importance}: pruned as far as it goes, {macs:,} MACs are over {limit:,}"
        )
    network.zero_grad(set_to_none=True)
    return Pruned(network, count_macs(network, inlet), spent)


@torch.no_grad()
def _about(network: nn.Module, example: Tensor) -> int:
    """Multiply-adds of convolutions and linear layers, which is quicker than to count all."""
    found = []

    def count(module: nn.Module, _: Any, outputs: Tensor) -> None:
        weight = module.get_parameter("weight")
        found.append(outputs.numel() // outputs.shape[1] * weight.numel())

    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    network(example)
    for hook in hooks:
        hook.remove()
    return sum(found)


def _gradients(network: nn.Module, batches: Iterable[Batch], loss: Loss, first: bool) -> int:
    """Accumulate gradients in evaluation mode; how many examples were run."""
    network.zero_grad(set_to_none=True)
    count = 0
    for batch in batches:
        loss(network, batch, first).backward()  # type: ignore[no-untyped-call]
        count += len(batch.inputs)
    for parameter in network.parameters():
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    return count


def few_batches(batches: Iterator[Batch], count: int) -> list[Batch]:
    """The first batches of a pass."""
    return [batch for batch, _ in zip(batches, range(count), strict=False)]

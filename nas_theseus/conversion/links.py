"""Networks run link by link: activations computed again in the backward pass, hidden states."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas_theseus.conversion.hybrid import Hybrid
from nas_theseus.conversion.target import Target, batch_norms
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide

Link: TypeAlias = Callable[[Tensor], Tensor]


def links_of(network: nn.Module) -> list[Link]:
    """The links of a chain, from input to output; empty for a network that is no chain."""
    if isinstance(network, Target):
        return list(network.blocks)
    if isinstance(network, Guide):
        return list(network.parts)
    if isinstance(network, Hybrid):
        return network.links()
    return list(network) if isinstance(network, nn.Sequential) else []


def outlets_of(network: nn.Module, links: Sequence[Link]) -> list[int]:
    """The guide's boundary behind each link; links of networks without a target are its parts."""
    target = network.target if isinstance(network, Hybrid) else network
    if isinstance(target, Target):
        return [target.outlet_boundary(position) for position in range(len(links))]
    return list(range(1, len(links) + 1))


def required_links(network: nn.Module, setting: str) -> list[Link]:
    """The links of a chain.

    Args:
        setting: setting of the recipe that needs them, for the message.

    Raises:
        ConversionError: the network is no chain.
    """
    links = links_of(network)
    if not links:
        raise ConversionError(
            f"{setting} needs a network that is a chain of blocks, such as a guide or a candidate; "
            f"{type(network).__name__} is none: leave {setting} at its default"
        )
    return links


def run_links(
    network: nn.Module, links: Sequence[Link], inputs: Tensor, *, checkpointing: bool = False
) -> Iterator[Tensor]:
    """The outputs of each link.

    Args:
        checkpointing: whether a link's activations are not stored but computed a second time in
            the backward pass. Random numbers are drawn again as they were, and statistics of batch
            norms are not updated a second time.

    Source: Chen et al. 2016, arXiv:1604.06174.
    """
    norms = [norm for norm in batch_norms(network) if norm.training] if checkpointing else []

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _statistics_fixed(norms)

    features = inputs
    for link in links:
        if checkpointing and torch.is_grad_enabled():
            features = checkpoint(link, features, use_reentrant=False, context_fn=contexts)
        else:
            features = link(features)
        yield features


@contextmanager
def _statistics_fixed(norms: Sequence[nn.modules.batchnorm._BatchNorm]) -> Iterator[None]:
    """Context in which batch norms normalise as in training but keep their running statistics.

    A momentum of 0 is used rather than no statistics, with which autograd would store fewer tensors
    than in the forward pass, and checkpointing would refuse them.
    """
    before = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum, norm.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for norm, (momentum, tracked) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, tracked

"""The blocks of a found network that do something, and how each treats tokens."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_theseus.errors import TheseusError
from nas_theseus.export.member import Member
from nas_theseus.values.architecture import Boundary


@dataclass(frozen=True, eq=False)
class Working:
    """A block of a network, between two boundaries.

    Attributes:
        place: position in the network.
    """

    place: int
    module: nn.Module
    inlet: Boundary
    outlet: Boundary


def working_blocks(member: Member) -> list[Working]:
    """A network's blocks in order, without those that return their input as it is."""
    network = member.network
    boundaries = member.space.boundaries(network.architecture)
    found = [
        Working(place, block, *boundaries[place : place + 2])
        for place, block in enumerate(network.blocks)
    ]
    return [block for block in found if not _is_skip(block)]


@torch.no_grad()
def _is_skip(block: Working) -> bool:
    if block.inlet != block.outlet or any(True for _ in block.module.parameters()):
        return False
    features = _features(block.inlet, 2)
    return torch.equal(block.module(features), features)


def goes_on(block: Working, member: Member) -> bool:
    """Whether a block can go on token by token: it takes a state, or tokens do not mix in it."""
    try:
        block.module.state_elements(1)  # type: ignore[operator]
    except (AttributeError, TheseusError):  # no such method, or it says that it cannot
        return is_pointwise(block, member)
    return True


@torch.no_grad()
def is_pointwise(block: Working, member: Member) -> bool:
    """Whether a block computes each token's output from this token alone."""
    probe = copy.deepcopy(block.module)
    generator = torch.Generator().manual_seed(0)
    for parameter in probe.parameters():  # zeros would hide what they multiply
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    inputs = _features(block.inlet, member.space.task.outputs.width)
    try:
        alone = probe(inputs.flatten(0, 1)[:, None])
        together = probe(inputs).flatten(0, 1)[:, None]
    except Exception:  # a block that takes one number of tokens only
        return False
    return alone.shape == together.shape and torch.allclose(alone, together, rtol=1e-3, atol=1e-4)


def _features(boundary: Boundary, vocabulary: int) -> Tensor:
    """Two inputs of a shape, always the same."""
    generator = torch.Generator().manual_seed(0)
    if boundary.integer:
        return torch.randint(vocabulary, (2, *boundary.shape), generator=generator)
    return torch.randn(2, *boundary.shape, generator=generator)

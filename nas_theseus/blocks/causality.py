"""Test which tokens a module reads, by changing them and comparing outputs at other tokens."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from nas_theseus.values.architecture import Boundary

# Rounding may differ between two runs of the same arithmetic; a token that is read changes outputs
# far more.
TOLERANCE = 1e-5


@torch.no_grad()
def reads_ahead(module: nn.Module, inlet: Boundary, vocabulary: int = 2) -> bool:
    """Whether an output at one token changes with a later token, in evaluation mode.

    All tokens from a position on are changed, for several positions including the first and last.
    The test runs on a copy of the module, in which parameters that are all zero become random,
    since a branch that starts at zero would hide what it reads. The same module always gives the
    same answer.

    Args:
        module: maps (N, T, D), or token ids (N, T), to (N, T, E).
        inlet: shape of one input, (T, D) or ids (T,).
        vocabulary: token ids are drawn below this number.
    """
    probe = copy.deepcopy(module).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in probe.parameters():
        if not parameter.any():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=generator))
    inputs, others = _two_inputs(inlet, vocabulary, generator)
    found = probe(inputs)
    allowed = TOLERANCE * float(found.abs().max().clamp(min=1))
    tokens = inlet.shape[0]
    for place in sorted({1, tokens // 3, tokens // 2, tokens - 1} & set(range(1, tokens))):
        changed = torch.cat([inputs[:, :place], others[:, place:]], dim=1)
        difference = (probe(changed) - found)[:, :place].abs().max()
        if difference > allowed:
            return True
    return False


@torch.no_grad()
def mixes_tokens(module: nn.Module, inlet: Boundary, vocabulary: int = 2) -> bool:
    """Whether an output at one token changes with another token, in evaluation mode.

    Args:
        module, inlet, vocabulary: as for `reads_ahead`.
    """
    if inlet.shape[0] < 2:
        return False
    if reads_ahead(module, inlet, vocabulary):
        return True
    inputs, others = _two_inputs(inlet, vocabulary, torch.Generator().manual_seed(0))
    probe = copy.deepcopy(module).eval()
    found = probe(inputs)
    allowed = TOLERANCE * float(found.abs().max().clamp(min=1))
    changed = torch.cat([others[:, :-1], inputs[:, -1:]], dim=1)
    return bool((probe(changed) - found)[:, -1].abs().max() > allowed)


def _two_inputs(
    inlet: Boundary, vocabulary: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Two batches (2, *inlet) that differ at every token."""
    if inlet.integer:
        ids = torch.randint(vocabulary, (2, *inlet.shape), generator=generator)
        return ids, (ids + 1) % vocabulary
    first, second = torch.randn(2, 2, *inlet.shape, generator=generator)
    return first, second

"""Recurrent blocks over tokens, causal by nature: GRU, and minGRU by a parallel scan."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.blocks.base import scaled_width
from nas_theseus.blocks.chunks import CHUNK, carry, in_chunks
from nas_theseus.blocks.sequence import CausalDepthwiseConv, SequenceBlock, token_shape
from nas_theseus.values import Boundary


class GRUBlock(SequenceBlock):
    """A gated recurrent unit of one layer. Source: Cho et al. 2014, arXiv:1406.1078.

    Args:
        hidden: width of its state as a multiple of the inlet's.
        mlp: hidden width of an MLP behind it as a multiple of the inlet's; 0 for none.

    Raises:
        ShapeError: not (T,D) on both sides.
    """

    def __init__(
        self, inlet: Boundary, outlet: Boundary, hidden: float = 1.0, mlp: float = 0.0
    ) -> None:
        _, width = token_shape(inlet, outlet)
        state = scaled_width(width, hidden)
        super().__init__(inlet, outlet, _GRU(width, state), state, mlp)


class MinimalRNNBlock(SequenceBlock):
    """minGRU: gates read the token alone, so that all steps run at once.

    Args:
        hidden: width of its state as a multiple of the inlet's.
        kernel: tokens that a causal depthwise convolution in front reads; 0 for none.
        mlp: hidden width of an MLP behind it as a multiple of the inlet's; 0 for none.

    Raises:
        ShapeError: not (T,D) on both sides.

    Source: Feng et al. 2024, arXiv:2410.01201, section 3.1 and appendix B.
    """

    def __init__(
        self,
        inlet: Boundary,
        outlet: Boundary,
        hidden: float = 1.0,
        kernel: int = 0,
        mlp: float = 0.0,
    ) -> None:
        tokens, width = token_shape(inlet, outlet)
        state = scaled_width(width, hidden)
        conv = [CausalDepthwiseConv(width, kernel)] if kernel else []
        mixer = nn.Sequential(*conv, _MinimalGRU(tokens, width, state))
        super().__init__(inlet, outlet, mixer, state, mlp)


class _GRU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)

    def train(self, mode: bool = True) -> Self:
        """As ever, but the GRU itself, which has no dropout, stays in training mode.

        cuDNN refuses gradients through a GRU in evaluation mode, and a schedule sends them through
        frozen blocks.
        """
        super().train(mode)
        self.gru.train()
        return self

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.gru(x)[0]
        return out


class _MinimalGRU(nn.Module):
    def __init__(self, tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.gate_and_candidate = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor) -> Tensor:
        gate, candidate = self.gate_and_candidate(x).chunk(2, dim=2)
        return minimal_gru(gate, candidate, self.tokens).to(gate.dtype)


def minimal_gru(gate: Tensor, candidate: Tensor, tokens: int, chunk: int = CHUNK) -> Tensor:
    """h_t = (1 − z_t) h_(t−1) + z_t g(candidate_t), z = σ(gate), h_0 = 0, by a scan over T.

    g(x) is x + 1/2 for x ≥ 0, else σ(x): positive, so that the scan runs in log space. With
    a_t = Σ_(s≤t) log(1 − z_s), log h_t = a_t + log Σ_(s≤t) exp(log z_s + log g_s − a_s). That
    these sums begin anew in each chunk, whose last state is carried to the next, is ours.

    Args:
        gate: shape (N, T, H).
        candidate: shape (N, T, H).
        tokens: T, given as a number since a traced shape is none.
        chunk: tokens in a chunk.

    Returns:
        Shape (N, T, H), float32 at least.

    Source: Feng et al. 2024, arXiv:2410.01201, appendix B; Heinsen 2023, arXiv:2311.06281 (the
    scan).
    """
    wide = torch.promote_types(gate.dtype, torch.float32)  # too coarse below for sums of logs
    gate, candidate = (in_chunks(x.to(wide), tokens, chunk) for x in (gate, candidate))
    log_kept = -F.softplus(gate).cumsum(-2)
    log_candidate = torch.where(
        candidate >= 0, (F.relu(candidate) + 0.5).log(), F.logsigmoid(candidate)
    )
    added = F.logsigmoid(gate) + log_candidate - log_kept
    within = (log_kept + added.logcumsumexp(-2)).exp()
    kept = log_kept.exp()
    states = carry(kept[..., -1:, :], within[..., -1:, :])
    return (within + kept * states).flatten(1, 2)[:, :tokens]

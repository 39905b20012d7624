"""Recurrent blocks over tokens, always causal: GRU, and minGRU by a parallel scan."""

from __future__ import annotations

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.blocks.family import scaled_width
from nas_theseus.blocks.mixers import length
from nas_theseus.blocks.sequence import CausalDepthwiseConv, SequenceBlock, token_shape
from nas_theseus.guide.sublayers import State
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.style import PLAIN, Style


class GRUBlock(SequenceBlock):
    """A gated recurrent unit of one layer. Source: Cho et al. 2014, arXiv:1406.1078.

    Args:
        hidden: width of the state as a multiple of the inlet's.
        mlp: hidden width of an MLP after the GRU as a multiple of the inlet's; 0 for none.

    Raises:
        ShapeError: a side is not (T,D).
    """

    def __init__(
        self,
        inlet: Boundary,
        outlet: Boundary,
        hidden: float = 1.0,
        mlp: float = 0.0,
        style: Style = PLAIN,
    ) -> None:
        _, width = token_shape(inlet, outlet)
        state = scaled_width(width, hidden)
        super().__init__(inlet, outlet, _GRU(width, state), state, mlp, style)


class MinimalRNNBlock(SequenceBlock):
    """minGRU: gates depend on the token alone, so that all steps run at once.

    Args:
        hidden: width of the state as a multiple of the inlet's.
        kernel: number of tokens read by a causal depthwise convolution before it; 0 for none.
        mlp: hidden width of an MLP after it as a multiple of the inlet's; 0 for none.

    Raises:
        ShapeError: a side is not (T,D).

    Source: Feng et al. 2024, arXiv:2410.01201, section 3.1 and appendix B.
    """

    def __init__(
        self,
        inlet: Boundary,
        outlet: Boundary,
        hidden: float = 1.0,
        kernel: int = 0,
        mlp: float = 0.0,
        style: Style = PLAIN,
    ) -> None:
        tokens, width = token_shape(inlet, outlet)
        state = scaled_width(width, hidden)
        conv = [CausalDepthwiseConv(width, kernel)] if kernel else []
        mixer = nn.Sequential(*conv, _MinimalGRU(tokens, width, state))
        super().__init__(inlet, outlet, mixer, state, mlp, style)


class _GRU(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.gru = nn.GRU(width, hidden, batch_first=True)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all but the GRU itself, which has no dropout and stays in training mode.

        cuDNN refuses gradients through a GRU in evaluation mode, and schedules backpropagate
        through frozen blocks.
        """
        super().train(mode)
        self.gru.train()
        return self

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        out: Tensor
        if state is None:
            out = self.gru(x)[0]
        else:
            out, hidden = self.gru(x, state["hidden"][None] if state else None)
            state["hidden"] = hidden[0]
        return out

    def state_elements(self, tokens: int) -> int:
        """The hidden state, whatever the number of tokens."""
        del tokens
        return self.gru.hidden_size


class _MinimalGRU(nn.Module):
    def __init__(self, tokens: int, width: int, hidden: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.gate_and_candidate = nn.Linear(width, 2 * hidden)

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        gate, candidate = self.gate_and_candidate(x).chunk(2, dim=2)
        before = None if state is None else state.get("hidden")
        hidden = minimal_gru(gate, candidate, length(x, self.tokens), before)
        if state is not None:
            state["hidden"] = hidden[:, -1]
        return hidden.to(gate.dtype)

    def state_elements(self, tokens: int) -> int:
        """The hidden state, whatever the number of tokens."""
        del tokens
        return self.gate_and_candidate.out_features // 2


def minimal_gru(
    gate: Tensor, candidate: Tensor, tokens: int, before: Tensor | None = None
) -> Tensor:
    """h_t = (1 − z_t) h_(t−1) + z_t g(candidate_t), z = σ(gate), by a scan over T.

    g(x) is x + 1/2 for x ≥ 0, else σ(x), as in the source. The source scans in log space. This scan
    doubles the reach of each token's recurrence log2(T) times (Hillis and Steele 1986), with
    products of numbers below 1 and sums of positive ones, so that nothing overflows or cancels.

    Args:
        gate: shape (N, T, H).
        candidate: shape (N, T, H).
        tokens: T as a number, since shapes are not numbers while tracing.
        before: h_0, shape (N, H). Default: zero.

    Returns:
        Shape (N, T, H), in float32 or higher precision.

    Source: Feng et al. 2024, arXiv:2410.01201, section 3.1 and appendix B.
    """
    wide = torch.promote_types(gate.dtype, torch.float32)
    gate, candidate = gate.to(wide), candidate.to(wide)
    update = gate.sigmoid()
    added = update * torch.where(candidate >= 0, F.relu(candidate) + 0.5, candidate.sigmoid())
    kept = (-gate).sigmoid()
    reach = 1
    while reach < tokens:
        # Contribution of the state `reach` tokens before; zero before the first token.
        earlier = F.pad(added[:, :-reach], (0, 0, reach, 0))
        added = added + kept * earlier
        kept = kept * F.pad(kept[:, :-reach], (0, 0, reach, 0), value=1.0)
        reach *= 2
    return added if before is None else added + kept * before[:, None]

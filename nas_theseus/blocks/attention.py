"""Attention blocks over tokens: softmax attention, and linear attention in O(T)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.blocks.chunks import CHUNK, carry, in_chunks
from nas_theseus.blocks.sequence import SequenceBlock, token_shape
from nas_theseus.errors import ShapeError
from nas_theseus.values.architecture import Boundary

# Slows forgetting, so that memory spans many tokens from the start (Yang et al. 2024, section 4).
FORGET_TEMPERATURE = 16


class SelfAttentionBlock(SequenceBlock):
    """Softmax self-attention and an MLP. Source: Vaswani et al. 2017, arXiv:1706.03762.

    There is no position embedding, since a guide's tokens already encode their position.

    Args:
        heads: number of attention heads; must divide the inlet's width.
        mlp: hidden width of the MLP as a multiple of the inlet's; 0 for attention alone.
        causal: whether no token reads a later one.

    Raises:
        ShapeError: a side is not (T,D), or the heads do not divide the width.
    """

    def __init__(
        self,
        inlet: Boundary,
        outlet: Boundary,
        heads: int = 4,
        mlp: float = 4.0,
        causal: bool = False,
    ) -> None:
        _, width = token_shape(inlet, outlet)
        super().__init__(inlet, outlet, _SoftmaxAttention(width, heads, causal), width, mlp)


class LinearAttentionBlock(SequenceBlock):
    """Linear attention and an MLP: linear in the number of tokens.

    The feature map is elu + 1. In the causal form, each head has a forget gate computed from every
    token, and a second gate scales each output channel of the attention.

    Args:
        heads: number of attention heads; must divide the inlet's width.
        mlp: hidden width of the MLP as a multiple of the inlet's; 0 for attention alone.
        causal: whether no token reads a later one.

    Raises:
        ShapeError: a side is not (T,D), or the heads do not divide the width.

    Source: Katharopoulos et al. 2020, arXiv:2006.16236, section 3.2 (linear attention); Yang et al.
    2024, arXiv:2312.06635, section 4 (gates). One forget gate per head instead of one per channel
    is ours: products within a chunk are then plain matrix products and every decay is at most 1.
    """

    def __init__(
        self,
        inlet: Boundary,
        outlet: Boundary,
        heads: int = 4,
        mlp: float = 4.0,
        causal: bool = False,
    ) -> None:
        tokens, width = token_shape(inlet, outlet)
        super().__init__(inlet, outlet, _LinearAttention(tokens, width, heads, causal), width, mlp)


class _Heads(nn.Module):
    """Queries, keys and values of several heads, computed by one linear map."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        if heads < 1 or width % heads:
            fitting = ", ".join(str(n) for n in range(1, width + 1) if width % n == 0)
            raise ShapeError(
                f"heads must divide the width {width}, got {heads}; possible: {fitting}"
            )
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(N, T, D) to three of (N, heads, T, D / heads)."""
        query, key, value = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return query, key, value


class _SoftmaxAttention(_Heads):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__(width, heads)
        self.causal = causal

    def forward(self, x: Tensor) -> Tensor:
        found = F.scaled_dot_product_attention(*self.split(x), is_causal=self.causal)
        return found.transpose(1, 2).flatten(2)


class _LinearAttention(_Heads):
    def __init__(self, tokens: int, width: int, heads: int, causal: bool) -> None:
        super().__init__(width, heads)
        self.tokens = tokens
        self.output_gate = nn.Linear(width, width)
        self.forget_gate = nn.Linear(width, heads) if causal else None

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.split(x)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        value = F.pad(value, (0, 1), value=1.0)  # the last column sums the weights themselves
        if self.forget_gate is None:
            summed = query @ (key.mT @ value)
        else:
            log_forget = F.logsigmoid(self.forget_gate(x)).mT / FORGET_TEMPERATURE
            summed = gated_linear_attention(query, key, value, log_forget, self.tokens)
        # A very negative query has elu + 1 = 0 and thus zero weights; avoid dividing by 0.
        found = summed[..., :-1] / (summed[..., -1:] + 1e-6)
        return found.transpose(1, 2).flatten(2) * F.silu(self.output_gate(x))


def gated_linear_attention(
    query: Tensor, key: Tensor, value: Tensor, log_forget: Tensor, tokens: int, chunk: int = CHUNK
) -> Tensor:
    """Causal linear attention with forgetting, o_t = S_tᵀ q_t with S_t = α_t S_(t−1) + k_t v_tᵀ.

    Computed chunk by chunk: matrix products within a chunk, and the state S carried from chunk to
    chunk. Decays are differences of cumulative log α, never negative powers, so that no gate
    overflows.

    Args:
        query: shape (N, heads, T, K).
        key: shape (N, heads, T, K).
        value: shape (N, heads, T, V).
        log_forget: log α, at most 0, shape (N, heads, T).
        tokens: T as a number, since shapes are not numbers while tracing.
        chunk: number of tokens in a chunk.

    Returns:
        Shape (N, heads, T, V).

    Source: Yang et al. 2024, arXiv:2312.06635, section 4, with one scalar gate per head.
    """
    # Gates are summed in float32 or more, even if autocast computed them in lower precision.
    log_forget = log_forget.to(torch.promote_types(log_forget.dtype, torch.float32))
    query, key, value, log_forget = (
        in_chunks(tensor, tokens, chunk) for tensor in (query, key, value, log_forget[..., None])
    )
    since_start = log_forget.cumsum(-2)
    whole = since_start[..., -1:, :]
    size = min(chunk, tokens)
    later = torch.ones(size, size, dtype=torch.bool, device=query.device).triu(1)
    decay = (since_start - since_start.mT).masked_fill(later, -torch.inf).exp()
    within = (query @ key.mT * decay) @ value
    states = carry(whole.exp(), (key * (whole - since_start).exp()).mT @ value)
    return (within + (query * since_start.exp()) @ states).flatten(2, 3)[:, :, :tokens]

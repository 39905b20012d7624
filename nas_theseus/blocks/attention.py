"""Attention blocks over tokens: softmax attention, and linear attention in O(T)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.blocks.chunks import CHUNK, carry, in_chunks
from nas_theseus.blocks.mixers import FORGET_TEMPERATURE, length, remember
from nas_theseus.blocks.sequence import SequenceBlock, cannot_generate, token_shape
from nas_theseus.errors import ShapeError
from nas_theseus.guide.sublayers import State
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.style import PLAIN, Style


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
        style: Style = PLAIN,
    ) -> None:
        _, width = token_shape(inlet, outlet)
        mixer = _SoftmaxAttention(width, heads, causal)
        super().__init__(inlet, outlet, mixer, width, mlp, style)


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
        style: Style = PLAIN,
    ) -> None:
        tokens, width = token_shape(inlet, outlet)
        mixer = _LinearAttention(tokens, width, heads, causal)
        super().__init__(inlet, outlet, mixer, width, mlp, style)


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
        found = self.qkv(x).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = found.unbind(0)
        return query, key, value


class _SoftmaxAttention(_Heads):
    def __init__(self, width: int, heads: int, causal: bool) -> None:
        super().__init__(width, heads)
        self.causal = causal

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        query, key, value = self.split(x)
        if state is None:
            found = F.scaled_dot_product_attention(query, key, value, is_causal=self.causal)
        else:
            self._refuse_unless_causal()
            if state:
                key = torch.cat([state["keys"], key], dim=2)
                value = torch.cat([state["values"], value], dim=2)
            state["keys"], state["values"] = key, value
            new, count = query.shape[2], key.shape[2]
            read = torch.ones(new, count, dtype=torch.bool, device=x.device).tril(count - new)
            found = F.scaled_dot_product_attention(query, key, value, attn_mask=read)
        return found.transpose(1, 2).flatten(2)

    def state_elements(self, tokens: int) -> int:
        """Keys and values of all tokens.

        Raises:
            CostError: the attention is not causal.
        """
        self._refuse_unless_causal()
        return 2 * tokens * self.qkv.in_features

    def _refuse_unless_causal(self) -> None:
        if not self.causal:
            raise cannot_generate("self_attention", "causal=True")


class _LinearAttention(_Heads):
    def __init__(self, tokens: int, width: int, heads: int, causal: bool) -> None:
        super().__init__(width, heads)
        self.tokens = tokens
        self.output_gate = nn.Linear(width, width)
        self.forget_gate = nn.Linear(width, heads) if causal else None

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        query, key, value = self.split(x)
        query, key = F.elu(query) + 1, F.elu(key) + 1
        value = F.pad(value, (0, 1), value=1.0)  # the last column sums the weights themselves
        if self.forget_gate is None:
            if state is not None:
                raise cannot_generate("linear_attention", "causal=True")
            summed = query @ (key.mT @ value)
        else:
            log_forget = F.logsigmoid(self.forget_gate(x)).mT / FORGET_TEMPERATURE
            tokens = length(x, self.tokens)
            memory = None if state is None else state.get("memory")
            summed = gated_linear_attention(query, key, value, log_forget, tokens, memory=memory)
            if state is not None:
                wide = torch.promote_types(log_forget.dtype, torch.float32)
                forgotten = log_forget.to(wide).cumsum(-1)
                state["memory"] = remember(memory, key, value, forgotten)
        # A very negative query has elu + 1 = 0 and thus zero weights; avoid dividing by 0.
        found = summed[..., :-1] / (summed[..., -1:] + 1e-6)
        return found.transpose(1, 2).flatten(2) * F.silu(self.output_gate(x))

    def state_elements(self, tokens: int) -> int:
        """The memory of each head, whatever the number of tokens.

        Raises:
            CostError: the attention is not causal.
        """
        del tokens
        if self.forget_gate is None:
            raise cannot_generate("linear_attention", "causal=True")
        width = self.output_gate.in_features
        return width * (width // self.heads + 1)


def gated_linear_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    log_forget: Tensor,
    tokens: int,
    chunk: int = CHUNK,
    memory: Tensor | None = None,
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
        memory: S_0, shape (N, heads, K, V). Default: zero.

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
    states = carry(whole.exp(), (key * (whole - since_start).exp()).mT @ value, memory)
    return (within + (query * since_start.exp()) @ states).flatten(2, 3)[:, :, :tokens]

"""Mixers over tokens with a state of fixed size, and how modules over tokens are continued.

A mixer that takes over a transformer's attention belongs into exported folders as well: this file
needs torch and `guide.sublayers` alone.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.guide.sublayers import Attention, State

# Tokens that a chunk has at least.
SLOT_CHUNK = 16
# Tokens of a prompt that are read at once.
SLOT_PIECE = 64
# Slows forgetting, so that memory spans many tokens from the start (Yang et al. 2024, section 4).
FORGET_TEMPERATURE = 16
# Smallest weight by which a sum of values is divided.
TINY = 1e-30


def length(x: Tensor, traced: int) -> int:
    """Number of tokens T of (N, T, D) as a number.

    Args:
        traced: T while a module is traced, when shapes are not numbers.
    """
    return traced if tracing() else x.shape[1]


def tracing() -> bool:
    """Whether `torch.jit.trace` is running."""
    return bool(torch.jit.is_tracing())  # type: ignore[attr-defined,no-untyped-call]


def continued(module: nn.Module, x: Tensor, state: State | None) -> Tensor:
    """Run a module, or a sequence of modules, and hand the state to those that take one.

    Modules without `state_elements` treat every token alone.
    """
    if isinstance(module, nn.Sequential):
        for each in module:
            x = continued(each, x, state)
        return x
    takes = state is not None and hasattr(module, "state_elements")
    out: Tensor = module(x, state) if takes else module(x)
    return out


def remembered(module: nn.Module, tokens: int) -> int:
    """Number of elements that a module, or a sequence of modules, remembers after some tokens."""
    if isinstance(module, nn.Sequential):
        return sum(remembered(each, tokens) for each in module)
    if not hasattr(module, "state_elements"):
        return 0
    return int(module.state_elements(tokens))  # type: ignore[operator]


def remember(
    memory: Tensor | None, key: Tensor, value: Tensor, forgotten: Tensor | None = None
) -> Tensor:
    """The memory S of linear attention after some tokens, S_t = α_t S_(t−1) + k_t v_tᵀ.

    Args:
        memory: S before the tokens, shape (…, K, V); None for zero.
        key: shape (…, T, K).
        value: shape (…, T, V).
        forgotten: cumulative sums of log α, shape (…, T). Default: nothing is forgotten.

    Returns:
        Shape (…, K, V).
    """
    if forgotten is None:
        added = key.mT @ value
        return added if memory is None else memory + added
    whole = forgotten[..., -1:, None]
    added = (key * (whole - forgotten[..., None]).exp()).mT @ value
    return added if memory is None else memory * whole.exp() + added


class SlotAttention(nn.Module):
    """Attention that reads recent tokens one by one and all earlier ones through slots.

    Each key head has R slots. A token that is older than the window joins them: its value is added
    to each slot's sum, weighted by a softmax over the slots of a linear map of its key. A query
    reads the tokens in the window as attention does, with weight exp(q·k), and a slot with weight
    exp(q·c) for each unit of weight that has joined it, where c is the slot's centre. All weights
    are normalised together. If every key beyond the window were its slot's centre, this would be
    the attention that it replaces.

    With gates, each key head forgets a share of all slots with every token that joins.

    Args:
        attention: attention whose maps, positions and norms are taken over.
        slots: R, the number of slots of a key head.
        window: number of tokens that are read one by one, the token itself included; 0 for none.
        tokens: number of tokens T of an input while the module is traced.
        gated: whether the slots forget.

    Source: slots that tokens join by a softmax are those of Peng et al. 2022, arXiv:2110.02488, and
    with gates of Zhang et al. 2024, arXiv:2409.07146; exact weights in a window normalised with
    linear ones beyond are LoLCATs', Zhang et al. 2024, arXiv:2410.10254, section 3.3. Keys and
    centres in one space, so that slots can be fitted to a guide's keys, are ours.
    """

    def __init__(
        self, attention: Attention, *, slots: int, window: int, tokens: int, gated: bool = False
    ) -> None:
        super().__init__()
        self.attention = attention
        self.slots, self.window, self.tokens, self.gated = slots, window, tokens, gated
        like = attention.key.weight
        shape = (attention.key_heads, slots, attention.head_width)
        self.centres = nn.Parameter(like.new_zeros(shape))
        self.offset = nn.Parameter(like.new_zeros(shape[:2]))
        self.join_weight = nn.Parameter(like.new_zeros(shape))
        self.join_bias = nn.Parameter(like.new_zeros(shape[:2]))
        self.forget: nn.Linear | None = None
        if gated:
            self.forget = nn.Linear(attention.key.in_features, shape[0]).to(like)

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        if state is None:
            mixed = self._all(x, length(x, self.tokens))
        else:
            mixed = torch.cat(
                [self._next(piece, state) for piece in torch.split(x, SLOT_PIECE, dim=1)], 2
            )
        out: Tensor = self.attention.output(mixed.transpose(1, 2).flatten(2))
        return out

    def state_elements(self, tokens: int) -> int:
        """Number of elements to remember of one sequence after so many tokens."""
        attention = self.attention
        each = attention.key.out_features + attention.value.out_features
        if self.forget is not None:
            each += attention.key_heads
        memory = attention.key_heads * self.slots * (attention.head_width + 1)
        return memory + min(tokens, self.window) * each

    def _split(self, x: Tensor, start: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """Queries (N, H, G, T, K) of G heads to a key head, keys and values (N, H, T, K), log α."""
        query, key, value = self.attention.split(x, start)
        query = torch.unflatten(query, 1, (self.attention.key_heads, -1)) * self.attention.scale
        if self.forget is None:
            return query, key, value, None
        log_forget = F.logsigmoid(self.forget(x)).mT / FORGET_TEMPERATURE
        # Gates are summed in float32 or more, even if autocast computed them in lower precision.
        wide = torch.promote_types(log_forget.dtype, torch.float32)
        return query, key, value, log_forget.to(wide)

    def _join(self, key: Tensor) -> Tensor:
        """Shares of each key that join the slots, (N, H, T, R)."""
        return (key @ self.join_weight.mT + self.join_bias[:, None]).softmax(-1)

    def _all(self, x: Tensor, tokens: int) -> Tensor:
        """What all tokens read at once, (N, heads, T, K); chunk by chunk, linear in T."""
        query, key, value, log_forget = self._split(x)
        size = min(max(SLOT_CHUNK, self.window), tokens)
        count = -(-tokens // size)

        def chunks(tensor: Tensor) -> Tensor:
            """(…, T, D) as (…, n, C, D), with zeros at the end."""
            padded = F.pad(tensor, (0, 0, 0, count * size - tokens))
            return torch.unflatten(padded, -2, (count, size))

        def spans(tensor: Tensor) -> Tensor:
            """Every chunk behind the one before it, (…, n, 2C, D)."""
            before = F.pad(tensor, (0, 0, 0, 0, 1, 0))[..., :-1, :, :]
            return torch.cat([before, tensor], dim=-2)

        joins, keys = chunks(self._join(key)), chunks(key)
        values = chunks(F.pad(value, (0, 1), value=1.0))  # the last column sums the weights
        gates = None if log_forget is None else chunks(log_forget[..., None])
        place = torch.arange(2 * size, device=x.device)
        back = (size + place[:size, None] - place).repeat(self._groups, 1)
        exists = place + size * torch.arange(count, device=x.device)[:, None, None] >= size
        grouped = chunks(query).transpose(2, 3).flatten(3, 4)  # (N, H, n, G·C, K)
        read = self._read(
            grouped,
            (spans(keys), spans(values), spans(joins)),
            None if gates is None else spans(gates)[..., 0].cumsum(-1),
            _two_chunks_before(joins, values, gates),
            (back, exists),
        )
        heads = torch.unflatten(read, 3, (-1, size)).transpose(2, 3).flatten(1, 2)
        return heads.flatten(2, 3)[:, :, :tokens]

    def _next(self, x: Tensor, state: State) -> Tensor:
        """What the next tokens read of those remembered and of themselves, (N, heads, T, K)."""
        seen = int(state["seen"]) if state else 0
        query, key, value, log_forget = self._split(x, seen)
        if state:
            key = torch.cat([state["keys"], key], dim=2)
            value = torch.cat([state["values"], value], dim=2)
            if log_forget is not None:
                log_forget = torch.cat([state["gates"], log_forget], dim=2)
            memory = state["memory"]
        else:
            memory = value.new_zeros(*key.shape[:2], self.slots, self.attention.head_width + 1)
        count = key.shape[2]
        old = max(0, count - self.window)
        joins = self._join(key[:, :, :old])
        values = F.pad(value, (0, 1), value=1.0)
        forgotten = None if log_forget is None else log_forget.cumsum(-1)
        place = torch.arange(count, device=x.device)
        back = (place[count - x.shape[1] :, None] - place).repeat(self._groups, 1)
        read = self._read(
            query.flatten(2, 3),
            (key, values, F.pad(joins, (0, 0, 0, count - old))),
            forgotten,
            memory,
            (back, torch.ones_like(place, dtype=torch.bool)),
        )
        if old:
            kept = None if forgotten is None else forgotten[..., :old]
            memory = remember(memory, joins, values[:, :, :old], kept)
        state["memory"] = memory
        state["keys"], state["values"] = key[:, :, old:], value[:, :, old:]
        if log_forget is not None:
            state["gates"] = log_forget[..., old:]
        state["seen"] = torch.tensor(seen + x.shape[1])
        return torch.unflatten(read, 2, (self._groups, -1)).flatten(1, 2)

    @property
    def _groups(self) -> int:
        """Number of query heads of a key head."""
        return self.attention.heads // self.attention.key_heads

    def _read(
        self,
        query: Tensor,
        span: tuple[Tensor, Tensor, Tensor],
        forgotten: Tensor | None,
        memory: Tensor,
        places: tuple[Tensor, Tensor],
    ) -> Tensor:
        """What queries read of a span of tokens and of the memory from before it.

        Args:
            query: shape (N, H, …, Q, K).
            span: keys (N, H, …, S, K), values with a last column of ones (N, H, …, S, V + 1), and
                the shares that join the slots (N, H, …, S, R).
            forgotten: cumulative sums of log α over the span, (N, H, …, S).
            memory: shape (N, H, …, R, V + 1).
            places: how many tokens each key is before each query (Q, S), and which keys exist.

        Returns:
            Shape (N, H, …, Q, V).
        """
        keys, values, joins = span
        back, exists = places
        far = back >= self.window
        between = (1,) * (query.ndim - 4)
        centres = torch.unflatten(self.centres, 0, (-1, *between))
        offset = torch.unflatten(self.offset, 0, (-1, *between, 1))
        slots = self._capped(query @ centres.mT + offset)
        top = slots.amax(-1, keepdim=True).detach()
        reading = (slots - top).exp()
        through = (reading @ joins.mT).masked_fill(~far, 0.0)
        if forgotten is not None:
            # Tokens forget those before them as they join: all far ones have joined.
            since = F.pad(forgotten, (1, 0))[..., far.sum(-1)][..., None]
            decay = (since - forgotten[..., None, :]).masked_fill(~far, -torch.inf)
            through, reading = through * decay.exp(), reading * since.exp()
        old = through @ values + reading @ memory
        if self.window == 0:
            return old[..., :-1] / old[..., -1:].clamp(min=TINY)
        near = (back >= 0) & ~far & exists
        exact = self._capped(query @ keys.mT).masked_fill(~near, -torch.inf)
        peak = exact.amax(-1, keepdim=True).detach()
        recent = (exact - peak).exp() @ values
        # The larger weight of the two sums is scaled to 1, so that none overflows; slots that
        # nothing has joined have no weight, however large their products.
        weight = old[..., -1:].detach()
        joined = torch.where(weight > TINY, top + weight.clamp(min=TINY).log(), -torch.inf)
        common = torch.maximum(peak, joined)
        scale = (top - common).clamp(max=-math.log(TINY)).exp()
        total = old * scale + recent * (peak - common).exp()
        return total[..., :-1] / total[..., -1:]

    def _capped(self, products: Tensor) -> Tensor:
        cap = self.attention.softcap
        return products if cap is None else cap * torch.tanh(products / cap)


def _two_chunks_before(joins: Tensor, values: Tensor, gates: Tensor | None) -> Tensor:
    """The memory before the chunk that precedes each chunk, (N, H, n, R, V + 1).

    Args:
        joins: shape (N, H, n, C, R).
        values: shape (N, H, n, C, V + 1).
        gates: log α, shape (N, H, n, C, 1).
    """
    if gates is None:
        after = remember(None, joins, values).cumsum(2)
        return F.pad(after, (0, 0, 0, 0, 2, 0))[:, :, :-2]
    forgotten = gates[..., 0].cumsum(-1)
    added = remember(None, joins, values, forgotten)
    whole = forgotten[..., -1:, None].exp()
    memory = torch.zeros_like(added[:, :, 0])
    before = [memory, memory]
    for kept, new in zip(whole.unbind(2), added.unbind(2), strict=True):
        memory = kept * memory + new
        before.append(memory)
    return torch.stack(before[:-2], dim=2)

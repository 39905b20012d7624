"""Sublayers of transformers as modules of one form, whichever library or family they come from.

A sublayer computes x + f(norm(x)), where f is attention or an MLP. Language models are cut into
these, blocks made of a guide's part change them, and an exported model consists of them: this file
imports torch alone and is copied into exported folders. The description of an exported model lists
the arguments of each module's constructor, so that every argument is an attribute of the same name.

Modules over tokens that take a `state` can generate text one token at a time. The state is a dict
of tensors that belongs to one sequence: empty before the first token, and updated in place by every
call. ``module(x)`` is the same as ``module(x, {})``. A module without tokens to remember leaves the
state empty.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State: TypeAlias = dict[str, Tensor]


class Rotary(nn.Module):
    """Rotary positions: pairs of a head's features are rotated by angles that grow with position.

    Features beyond the first 2·R of a head stay as they are.

    Args:
        frequencies: angle per position of each pair, shape (R,).
        scaling: factor on the rotated features.
        interleaved: whether a pair is two neighbours instead of one of each half.

    Source: Su et al. 2021, arXiv:2104.09864, section 3.4.2.
    """

    frequencies: Tensor

    def __init__(
        self, frequencies: Tensor, scaling: float = 1.0, interleaved: bool = False
    ) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies.detach().clone().float(), persistent=False)
        self.scaling, self.interleaved = scaling, interleaved

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Rotate queries or keys (N, heads, T, K) at the given positions (T,)."""
        angles = positions[:, None].float() * self.frequencies
        cosine = (angles.cos() * self.scaling).to(x.dtype)
        sine = (angles.sin() * self.scaling).to(x.dtype)
        width = 2 * angles.shape[1]
        rotated, rest = x[..., :width], x[..., width:]
        if self.interleaved:
            first, second = rotated[..., 0::2], rotated[..., 1::2]
        else:
            first, second = rotated.chunk(2, dim=-1)
        turned = (first * cosine - second * sine, second * cosine + first * sine)
        if self.interleaved:
            together = torch.stack(turned, dim=-1).flatten(-2)
        else:
            together = torch.cat(turned, dim=-1)
        return torch.cat([together, rest], dim=-1)


@dataclass(frozen=True)
class Reading:
    """How a token reads others.

    Attributes:
        scale: factor on the products of queries and keys. Default: 1/√K.
        window: a token reads itself and the window − 1 tokens before it. Default: all.
        softcap: products are limited to ±softcap by a tanh. Default: no limit.
        causal: whether tokens read earlier tokens only.
    """

    scale: float | None = None
    window: int | None = None
    softcap: float | None = None
    causal: bool = True


class Attention(nn.Module):
    """Attention with separate maps for queries, keys, values and output, (N, T, D) to (N, T, D).

    Key heads may be fewer than query heads; each then serves a group of neighbouring query heads.

    Args:
        query, key, value, output: linear maps; `query` writes heads x K features, `key` and `value`
            key_heads x K each.
        head_width: K, the width of a head.
        rotary: rotary positions. Default: none.
        norms: norms over each head's features, of queries and of keys. Default: none.
        reading: scale, window, softcap and causality.

    Source: Vaswani et al. 2017, arXiv:1706.03762; Ainslie et al. 2023, arXiv:2305.13245.
    """

    def __init__(
        self,
        query: nn.Linear,
        key: nn.Linear,
        value: nn.Linear,
        output: nn.Linear,
        *,
        head_width: int,
        rotary: Rotary | None = None,
        norms: tuple[nn.Module, nn.Module] | None = None,
        reading: Reading = Reading(),
    ) -> None:
        super().__init__()
        self.query, self.key, self.value, self.output = query, key, value, output
        self.head_width, self.rotary = head_width, rotary
        self.query_norm: nn.Module | None = norms[0] if norms else None
        self.key_norm: nn.Module | None = norms[1] if norms else None
        self.scale = head_width**-0.5 if reading.scale is None else reading.scale
        self.window, self.softcap, self.causal = reading.window, reading.softcap, reading.causal

    @property
    def norms(self) -> tuple[nn.Module, nn.Module] | None:
        """Norms over each head's features, of queries and of keys."""
        if self.query_norm is None or self.key_norm is None:
            return None
        return self.query_norm, self.key_norm

    @property
    def reading(self) -> Reading:
        """How a token reads others."""
        return Reading(self.scale, self.window, self.softcap, self.causal)

    @property
    def heads(self) -> int:
        """Number of query heads."""
        return self.query.out_features // self.head_width

    @property
    def key_heads(self) -> int:
        """Number of key and value heads."""
        return self.key.out_features // self.head_width

    def split(self, x: Tensor, start: Tensor | int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (N, heads, T, K), keys and values (N, key_heads, T, K), ready to be compared.

        Args:
            start: position of the first token.
        """
        query, key, value = (
            each(x).unflatten(-1, (-1, self.head_width)).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        if self.query_norm is not None and self.key_norm is not None:
            query, key = self.query_norm(query), self.key_norm(key)
        if self.rotary is not None:
            positions = torch.arange(x.shape[1], device=x.device) + start
            query, key = self.rotary(query, positions), self.rotary(key, positions)
        return query, key, value

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        if state is not None and not self.causal:
            raise ValueError("attention that reads later tokens cannot go on token by token")
        mixed = self.attend(*self.split(x)) if state is None else self._continue(x, state)
        out: Tensor = self.output(mixed.transpose(1, 2).flatten(2))
        return out

    def _continue(self, x: Tensor, state: State) -> Tensor:
        """What the next tokens read of those remembered and of themselves."""
        seen = int(state["seen"]) if state else 0
        query, key, value = self.split(x, seen)
        if state:
            key = torch.cat([state["keys"], key], dim=2)
            value = torch.cat([state["values"], value], dim=2)
        first = 0 if self.window is None else max(0, key.shape[2] - self.window)
        state["keys"], state["values"] = key[:, :, first:], value[:, :, first:]
        state["seen"] = torch.tensor(seen + x.shape[1])
        return self.attend(query, key, value, earlier=key.shape[2] - x.shape[1])

    def attend(self, query: Tensor, key: Tensor, value: Tensor, earlier: int = 0) -> Tensor:
        """The values that each query reads, (N, heads, T, K).

        Args:
            earlier: number of keys and values of tokens before those of the queries.
        """
        if (groups := self.heads // self.key_heads) > 1:
            key, value = (each.repeat_interleave(groups, dim=1) for each in (key, value))
        limited = self.window is not None or (self.causal and earlier > 0)
        if self.softcap is None and not limited:
            return F.scaled_dot_product_attention(
                query, key, value, is_causal=self.causal, scale=self.scale
            )
        places = torch.arange(key.shape[2], device=query.device)
        back = places[earlier:, None] - places
        read = back >= 0 if self.causal else torch.ones_like(back, dtype=torch.bool)
        if self.window is not None:
            read = read & (back.abs() < self.window)
        if self.softcap is None:
            return F.scaled_dot_product_attention(
                query, key, value, attn_mask=read, scale=self.scale
            )
        products = query @ key.mT * self.scale
        products = self.softcap * torch.tanh(products / self.softcap)
        weights = products.masked_fill(~read, -torch.inf).softmax(dim=-1, dtype=torch.float32)
        return weights.to(value.dtype) @ value

    def state_elements(self, tokens: int) -> int:
        """Number of elements to remember of one sequence after so many tokens."""
        remembered = tokens if self.window is None else min(tokens, self.window)
        return remembered * (self.key.out_features + self.value.out_features)


class MLP(nn.Module):
    """The same MLP at every token: down(activation(gate(x)) · up(x)), or down(activation(up(x))).

    Args:
        up, down: linear maps to the hidden units and back.
        gate: linear map of gated MLPs (SwiGLU, GeGLU). Default: none.

    Source: Shazeer 2020, arXiv:2002.05202.
    """

    def __init__(
        self, up: nn.Linear, down: nn.Linear, activation: nn.Module, gate: nn.Linear | None = None
    ) -> None:
        super().__init__()
        self.gate, self.up, self.down, self.activation = gate, up, down, activation

    def hidden(self, x: Tensor) -> Tensor:
        """The hidden units that `down` reads, (N, T, H)."""
        if self.gate is None:
            units: Tensor = self.activation(self.up(x))
        else:
            units = self.activation(self.gate(x)) * self.up(x)
        return units

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        del state
        out: Tensor = self.down(self.hidden(x))
        return out

    def state_elements(self, tokens: int) -> int:
        """An MLP remembers nothing."""
        del tokens
        return 0


class Sublayer(nn.Module):
    """A residual sublayer over tokens: after(x + post(f(norm(x)))), (N, T, D) to (N, T, D).

    Args:
        inner: f, a module over tokens that takes a state, such as `Attention` or `MLP`.
        norm: norm before f. Default: none.
        post: norm after f (Gemma 2). Default: none.
        after: norm after the sum (BERT). Default: none.
    """

    def __init__(
        self,
        inner: nn.Module,
        norm: nn.Module | None = None,
        post: nn.Module | None = None,
        after: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm, self.inner, self.post, self.after = norm, inner, post, after

    def contribution(self, x: Tensor, state: State | None = None) -> Tensor:
        """What is added to x, post(f(norm(x)))."""
        given = x if self.norm is None else self.norm(x)
        added: Tensor = self.inner(given, state)
        return added if self.post is None else self.post(added)

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        out = x + self.contribution(x, state)
        return out if self.after is None else self.after(out)

    def state_elements(self, tokens: int) -> int:
        """Number of elements to remember of one sequence after so many tokens."""
        return int(self.inner.state_elements(tokens))  # type: ignore[operator]


class Layer(nn.Module):
    """A transformer layer: attention, then MLP; or both of the same input (parallel).

    Args:
        parallel: whether both read the layer's input, x + f(norm(x)) + g(norm(x)); the two
            sublayers then have no norm after their sum.
    """

    def __init__(self, attention: Sublayer, mlp: Sublayer, parallel: bool = False) -> None:
        super().__init__()
        self.attention, self.mlp, self.parallel = attention, mlp, parallel

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        if self.parallel:
            return x + self.attention.contribution(x, state) + self.mlp.contribution(x)
        out: Tensor = self.mlp(self.attention(x, state))
        return out

    def state_elements(self, tokens: int) -> int:
        """Number of elements to remember of one sequence after so many tokens."""
        return self.attention.state_elements(tokens)


class Embedding(nn.Module):
    """Token ids (N, T) to features (N, T, D).

    Args:
        tokens: one vector for each id.
        scale: factor on the vectors, rounded to their dtype (Gemma). Default: 1.
        positions: one vector for each position, added. Default: none.
        types: one vector for each segment of a text; that of the first is added to all tokens
            (BERT). Default: none.
        norm: norm after the sum (BERT). Default: none.
    """

    def __init__(
        self,
        tokens: nn.Embedding,
        scale: float = 1.0,
        positions: nn.Embedding | None = None,
        types: nn.Embedding | None = None,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.tokens, self.scale, self.positions = tokens, scale, positions
        self.types, self.norm = types, norm

    def forward(self, ids: Tensor, state: State | None = None) -> Tensor:
        features: Tensor = self.tokens(ids)
        if self.scale != 1.0:
            features = features * torch.full(
                (), self.scale, dtype=features.dtype, device=features.device
            )
        if self.types is not None:
            features = features + self.types.weight[0]
        if self.positions is not None:
            seen = int(state["seen"]) if state else 0
            places = torch.arange(ids.shape[1], device=ids.device) + seen
            features = features + self.positions(places)
            if state is not None:
                state["seen"] = torch.tensor(seen + ids.shape[1])
        return features if self.norm is None else self.norm(features)

    def state_elements(self, tokens: int) -> int:
        """An embedding remembers its position only."""
        del tokens
        return 0


class Patches(nn.Module):
    """Images (N, C, H, W) to features (N, T, D): one token a patch, after a class token.

    Args:
        projection: convolution whose stride is its kernel's size.
        class_token: the first token, shape (1, 1, D).
        positions: added to the tokens, shape (1, T, D).

    Source: Dosovitskiy et al. 2021, arXiv:2010.11929, section 3.1.
    """

    def __init__(
        self, projection: nn.Conv2d, class_token: nn.Parameter, positions: nn.Parameter
    ) -> None:
        super().__init__()
        self.projection, self.class_token, self.positions = projection, class_token, positions

    def forward(self, images: Tensor) -> Tensor:
        patches = self.projection(images).flatten(2).transpose(1, 2)
        first = self.class_token.expand(images.shape[0], -1, -1)
        return torch.cat([first, patches], dim=1) + self.positions


class Head(nn.Module):
    """Features (N, T, D) to logits (N, T, V).

    Args:
        output: linear map to the vocabulary or classes, often tied to the embedding.
        norm: norm before the map; encoders have a linear map and an activation here as well.
            Default: none.
        softcap: logits are limited to ±softcap by a tanh (Gemma 2). Default: no limit.
        first: whether only the first token is read, so that logits are (N, V) (classifiers).
    """

    def __init__(
        self,
        output: nn.Module,
        norm: nn.Module | None = None,
        softcap: float | None = None,
        first: bool = False,
    ) -> None:
        super().__init__()
        self.norm, self.output, self.softcap, self.first = norm, output, softcap, first

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        del state
        given = x[:, 0] if self.first else x
        logits: Tensor = self.output(given if self.norm is None else self.norm(given))
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def state_elements(self, tokens: int) -> int:
        """A head remembers nothing."""
        del tokens
        return 0


class LowRankLinear(nn.Module):
    """A linear map of low rank, x to out(into(x)).

    Args:
        into: map from the inlet's width to the rank.
        out: map from the rank to the outlet's width.
    """

    def __init__(self, into: nn.Linear, out: nn.Linear) -> None:
        super().__init__()
        self.into, self.out = into, out

    @property
    def in_features(self) -> int:
        """Width of the input."""
        return self.into.in_features

    @property
    def out_features(self) -> int:
        """Width of the output."""
        return self.out.out_features

    def forward(self, x: Tensor) -> Tensor:
        mapped: Tensor = self.out(self.into(x))
        return mapped


class TokenLinear(nn.Module):
    """A linear map of each token, added to its features: x + W x + b.

    Args:
        map: from D to D features.
    """

    def __init__(self, map: nn.Linear) -> None:
        super().__init__()
        self.map = map

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        del state
        out: Tensor = x + self.map(x)
        return out

    def state_elements(self, tokens: int) -> int:
        """A map of each token remembers nothing."""
        del tokens
        return 0


class Skip(nn.Module):
    """Passes features on unchanged."""

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        del state
        return x

    def state_elements(self, tokens: int) -> int:
        """Nothing to remember."""
        del tokens
        return 0


def linear(weight: Tensor, bias: Tensor | None = None) -> nn.Linear:
    """A linear map with this weight (outlet, inlet) and bias, without copying them."""
    found = nn.Linear(weight.shape[1], weight.shape[0], bias=bias is not None, device="meta")
    found.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    if bias is not None:
        found.bias = bias if isinstance(bias, nn.Parameter) else nn.Parameter(bias)
    return found


def lookup(weight: Tensor) -> nn.Embedding:
    """A table of one vector for each id, (V, D), without copying it."""
    found = nn.Embedding(weight.shape[0], weight.shape[1], device="meta")
    found.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    return found


def rms_norm(weight: Tensor, eps: float) -> nn.RMSNorm:
    """An RMS norm over the last axis with this weight, without copying it."""
    found = nn.RMSNorm(len(weight), eps=eps, device="meta")
    found.weight = weight if isinstance(weight, nn.Parameter) else nn.Parameter(weight)
    return found

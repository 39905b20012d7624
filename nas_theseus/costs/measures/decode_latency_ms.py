"""Milliseconds of generating one token with a full cache, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nas_theseus.costs.decoding import (
    Decoder,
    cannot_run,
    median_ms,
    refuse_undecodable,
    require_tokens,
)
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


@dataclass(frozen=True)
class DecodeLatencyMs:
    """Median wall time of the last token of a context, whose earlier tokens are in the cache.

    The state is filled with context − 1 tokens of random features, and put back before every
    repeat.

    Attributes:
        context: number of tokens, the last included. Default: the guide's context.
        dtype: type in which blocks run, such as ``bfloat16``. Default: that of the weights.
    """

    context: int | None = None
    dtype: str | None = None

    name = "decode_latency_ms"
    unit = "ms"
    direction: Direction = "minimize"
    additive = True

    def check_block(self, module: nn.Module, inlet: Boundary) -> None:
        """Try a few tokens.

        Raises:
            CostError: the block cannot generate text token by token.
        """
        require_tokens(self.name, module, inlet)
        refuse_undecodable(module, inlet)

    @torch.no_grad()
    def measure_blocks(
        self,
        blocks: Sequence[nn.Module],
        inlet: Boundary,
        device: torch.device,
        threads: int | None,
    ) -> float:
        """Median of the repeats of one token.

        Raises:
            CostError: the blocks do not run on a context of this length.
        """
        require_tokens(self.name, blocks[0], inlet)
        decoder = Decoder(blocks, self.dtype)
        context = self.context or inlet.shape[0]
        text = decoder.example(inlet, context).to(device)
        try:
            if context > 1:
                decoder.read(text[:, :-1])
            states = decoder.remembered()
            return median_ms(
                lambda: decoder.read(text[:, -1:]),
                device,
                threads,
                lambda: decoder.remember(states),
            )
        except Exception as error:  # a block may raise anything
            raise cannot_run(self.name, blocks, context, error) from error


MEMBER = DecodeLatencyMs()

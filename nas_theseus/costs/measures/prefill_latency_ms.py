"""Milliseconds of reading a prompt before the first token is generated, block by block."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from nas_theseus.costs.decoding import Decoder, cannot_run, median_ms, require_tokens
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


@dataclass(frozen=True)
class PrefillLatencyMs:
    """Median wall time of a whole context of random features at batch 1.

    Blocks that take a state fill it meanwhile. The head computes the logits of all tokens, as the
    network does.

    Attributes:
        context: number of tokens. Default: the guide's context.
        dtype: type in which blocks run, such as ``bfloat16``. Default: that of the weights.
    """

    context: int | None = None
    dtype: str | None = None

    name = "prefill_latency_ms"
    unit = "ms"
    direction: Direction = "minimize"
    additive = True

    def check_block(self, module: nn.Module, inlet: Boundary) -> None:
        """Look at the inlet.

        Raises:
            CostError: the block reads no tokens.
        """
        require_tokens(self.name, module, inlet)

    @torch.no_grad()
    def measure_blocks(
        self,
        blocks: Sequence[nn.Module],
        inlet: Boundary,
        device: torch.device,
        threads: int | None,
    ) -> float:
        """Median of the repeats of the prompt.

        Raises:
            CostError: the blocks do not run on a context of this length.
        """
        require_tokens(self.name, blocks[0], inlet)
        decoder = Decoder(blocks, self.dtype)
        context = self.context or inlet.shape[0]
        text = decoder.example(inlet, context).to(device)
        try:
            return median_ms(lambda: decoder.read(text), device, threads, decoder.forget)
        except Exception as error:  # a block may raise anything
            raise cannot_run(self.name, blocks, context, error) from error


MEMBER = PrefillLatencyMs()

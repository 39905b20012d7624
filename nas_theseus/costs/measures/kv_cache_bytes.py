"""Bytes to remember of one sequence while text is generated: keys and values, or other states."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from nas_theseus.blocks.causality import mixes_tokens
from nas_theseus.costs.decoding import REMEDY
from nas_theseus.costs.parameters import element_bytes
from nas_theseus.costs.probe import eval_view
from nas_theseus.errors import CostError
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction


@dataclass(frozen=True)
class KVCacheBytes:
    """Bytes of the cache of one sequence, as each block's `state_elements` says.

    A block without `state_elements` needs no cache if no token's output depends on another token,
    which is tried.

    Attributes:
        context: number of tokens in the cache. Default: the guide's context.
        dtype: type of the cache, such as ``bfloat16``. Default: that of the weights.
    """

    context: int | None = None
    dtype: str | None = None

    name = "kv_cache_bytes"
    unit = "bytes"
    direction: Direction = "minimize"
    additive = True

    def count(self, module: nn.Module, inlet: Boundary) -> int:
        """The bytes that a block remembers.

        Raises:
            CostError: the inlet is not a sequence, or the block reads other tokens and does not
                say what it remembers.
        """
        if inlet.kind not in ("tokens", "ids"):
            raise CostError(
                f"{type(module).__name__} on {inlet} has no cache of tokens; kv_cache_bytes is for "
                "language models, whose parts take (T,D)"
            )
        says = getattr(module, "state_elements", None)
        if says is None:
            if mixes_tokens(eval_view(module), inlet):
                raise CostError(
                    f"{type(module).__name__} reads other tokens and does not say what it "
                    f"remembers of them: {REMEDY}"
                )
            return 0
        first = next(module.parameters(), torch.empty(0))
        elements = int(says(self.context or inlet.shape[0]))
        return elements * element_bytes(self.dtype, first)


MEMBER = KVCacheBytes()

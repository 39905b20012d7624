"""Blocks run as when text is generated: a prompt at once, then token by token with a state."""

from __future__ import annotations

import copy
import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor, nn

from nas_theseus.blocks.causality import mixes_tokens
from nas_theseus.blocks.family import Stitched
from nas_theseus.costs.latency import elapsed_ms, torch_threads
from nas_theseus.costs.parameters import dtype_of
from nas_theseus.costs.probe import eval_view
from nas_theseus.errors import CostError
from nas_theseus.guide.chain import example_input
from nas_theseus.values.architecture import Boundary

State = dict[str, Tensor]

_WARMUP, _LEAST, _MOST, _SECONDS = 3, 7, 50, 2.0
# Other data of the network; more than the largest caches does not matter.
_AROUND: ContextVar[Tensor | None] = ContextVar("around", default=None)
_MOST_AROUND_BYTES = 2**29
# Tokens on which a block's outputs with a state are compared with those without.
_CHECKED_TOKENS = 8
REMEDY = (
    "give it an argument state of forward(x, state) and a method state_elements(tokens) -> int, as "
    "the blocks of nas_theseus.guide.sublayers have"
)


class Decoder:
    """Blocks one after the other, each with a state of its own.

    Args:
        blocks: on one device; an `nn.Sequential` stands for its members.
        dtype: type in which blocks run, such as ``bfloat16``. Default: as they are.

    Raises:
        CostError: torch has no type of this name.
    """

    def __init__(self, blocks: Sequence[nn.Module], dtype: str | None = None) -> None:
        self._dtype = None if dtype is None else dtype_of(dtype)
        if self._dtype is not None:
            # Copies: the blocks share their parameters with the candidate.
            blocks = [copy.deepcopy(block).to(self._dtype) for block in blocks]
        self._modules = [module for block in blocks for module in _members(block)]
        self._states: list[State] = [{} for _ in self._modules]

    def forget(self) -> None:
        """Begin a new text."""
        self._states = [{} for _ in self._modules]

    def read(self, x: Tensor) -> Tensor:
        """Outputs for the next tokens of the text, (1, T, D) or ids (1, T); they are remembered."""
        for module, state in zip(self._modules, self._states, strict=True):
            x = module(x, state) if takes_state(module) else module(x)
        return x

    def remembered(self) -> list[State]:
        """A copy of what is remembered so far."""
        return [{name: held.clone() for name, held in each.items()} for each in self._states]

    def remember(self, states: Sequence[State]) -> None:
        """Put back what was remembered, a copy of it."""
        self._states = [{name: held.clone() for name, held in each.items()} for each in states]

    def example(self, inlet: Boundary, tokens: int) -> Tensor:
        """A text of so many tokens for the first block: random features, or ids of 0."""
        whole = nn.ModuleList(self._modules)
        text = example_input(whole, Boundary((tokens, *inlet.shape[1:]), inlet.integer))
        return text if self._dtype is None or inlet.integer else text.to(self._dtype)


def _members(block: nn.Module) -> list[nn.Module]:
    if isinstance(block, Stitched):
        return [*_members(block.inner), block.last]
    if type(block) is not nn.Sequential:
        return [block]
    return [member for each in block for member in _members(each)]


def takes_state(module: nn.Module) -> bool:
    """Whether a module can be called with a state beside its input."""
    try:
        return "state" in inspect.signature(module.forward).parameters
    except (TypeError, ValueError):  # compiled modules have no signature
        return False


def require_tokens(name: str, module: nn.Module, inlet: Boundary) -> None:
    """Refuse blocks whose inputs are no sequences.

    Raises:
        CostError: see above.
    """
    if inlet.kind not in ("tokens", "ids"):
        raise CostError(
            f"{type(module).__name__} on {inlet} reads no tokens; {name} is for language models, "
            "whose parts take (T,D). For other networks use latency_ms"
        )


def cannot_run(name: str, blocks: Sequence[nn.Module], context: int, error: Exception) -> CostError:
    """The error for blocks that fail on a context of so many tokens."""
    kinds = ", ".join(dict.fromkeys(type(block).__name__ for block in blocks))
    return CostError(
        f"{name} of {kinds} at a context of {context} tokens cannot be measured: "
        f"{type(error).__name__}: {error}. Use a context within the guide's, or leave out blocks "
        "that need another number of tokens"
    )


@torch.no_grad()
def refuse_undecodable(module: nn.Module, inlet: Boundary) -> None:
    """Refuse a block that cannot go on token by token, or does so with other outputs.

    Raises:
        CostError: why, and what to do.
    """
    view = eval_view(module, torch.device("cpu"))
    named = f"{type(module).__name__} on {inlet}"
    decoder = Decoder([view])
    if not any(map(takes_state, _members(view))):
        if mixes_tokens(view, inlet):
            raise CostError(
                f"{named} reads other tokens and cannot generate text token by token: {REMEDY}"
            )
        return
    text = decoder.example(inlet, min(_CHECKED_TOKENS, inlet.shape[0]))
    try:
        whole = decoder.read(text)
        decoder.forget()
        pieces = [decoder.read(text[:, at : at + 1]) for at in range(text.shape[1])]
        tokens = torch.cat(pieces, dim=1)
    except Exception as error:  # a block may raise anything
        raise CostError(
            f"{named} cannot generate text token by token: {type(error).__name__}: {error}. "
            "Correct what its forward(x, state) does, or leave the block out"
        ) from error
    allowed = 1e-3 if whole.dtype in (torch.float32, torch.float64) else 5e-2
    same = tokens.shape == whole.shape
    if not same or (tokens - whole).abs().max() > allowed * whole.abs().max().clamp(min=1):
        raise CostError(
            f"{named} gives other outputs token by token than for all tokens at once; correct what "
            "its forward(x, state) remembers: the state is a dict that is updated by every call"
        )


@contextmanager
def surrounded(bytes_: int, device: torch.device) -> Iterator[None]:
    """Context in which `median_ms` reads this many other bytes before every repeat.

    A block of a network finds in the processor's cache what the network's other blocks leave there.
    Measured alone it would find its own weights, and take a fraction of its time.
    """
    count = min(bytes_, _MOST_AROUND_BYTES) // 4
    token = _AROUND.set(torch.ones(count, device=device) if count else None)
    try:
        yield
    finally:
        _AROUND.reset(token)


def median_ms(
    run: Callable[[], object],
    device: torch.device,
    threads: int | None,
    prepare: Callable[[], object] = lambda: None,
) -> float:
    """Median milliseconds of a call, over 7 to 50 repeats in about two seconds, after a warm-up.

    Args:
        prepare: called before every repeat; its time does not count.
    """
    times_ms: list[float] = []
    with torch_threads(threads), torch.inference_mode():
        began = time.perf_counter()
        around = _AROUND.get()
        for number in range(_WARMUP + _MOST):
            prepare()
            if around is not None:
                around.sum()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            times_ms.append(elapsed_ms(run, device))
            spent = time.perf_counter() - began
            if number + 1 >= _WARMUP + _LEAST and spent > _SECONDS:
                break
    return float(np.median(times_ms[_WARMUP:]))

"""What a source of pretrained vision networks provides: the network and its preprocessing."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol, TypeAlias

from torch import nn

from nas_theseus.errors import GuideError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks.preprocessing import Preprocessing

At: TypeAlias = Literal["blocks", "stages", "sublayers"]

DEFAULT = "default"


@dataclass(frozen=True)
class Loaded:
    """A network of a source.

    Attributes:
        model: maps pictures (B, C, H, W) to logits (B, classes).
        preprocessing: what the weights expect, for inputs of the size that was asked for; None if
            the source does not say.
        weights: what messages call the weights; None for random ones.
        cut: cuts the model. Default: at the blocks that it repeats.
        inner: the module whose state dict a file of weights has. Default: the model.
    """

    model: nn.Module
    preprocessing: Preprocessing | None
    weights: str | None
    cut: Callable[[At], Guide] | None = None
    inner: nn.Module | None = None


class Source(Protocol):
    """Loads networks by name; a member of the register of sources."""

    def __call__(self, name: str, weights: str | None, size: int | None) -> Loaded:
        """Load a network.

        Args:
            name: what follows the source's name and a colon.
            weights: ``default``, the name of weights that the source knows, or None for random
                ones, which must not need the network.
            size: height and width of an input. Default: the weights' own.

        Raises:
            GuideError: a name is unknown, or the weights cannot be read.
        """


def unknown_name(source: str, name: str, known: Iterable[str]) -> GuideError:
    """The error for a network that a source does not have, with similar names."""
    names = sorted(known)
    similar = difflib.get_close_matches(name, names, n=5) or names[:5]
    return GuideError(
        f"{source} has no network for classes named {name!r}; similar: {', '.join(similar)}"
    )


def not_loaded(weights: str, place: str, error: Exception) -> GuideError:
    """The error for weights that are neither in a library's cache nor can be fetched.

    Args:
        place: where they are looked for, and how to put them there.
    """
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return GuideError(
        f"the weights {weights} cannot be loaded ({type(error).__name__}: {said}). {place}; or "
        "give weights='FILE.safetensors' (or .pt, .pth), or weights=None for random weights"
    )

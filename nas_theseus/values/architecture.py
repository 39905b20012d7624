"""Architectures: boundaries, spans of guide parts, and a block choice for each span."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeAlias

from nas_theseus.values.ids import short_hash

Hyperparameter: TypeAlias = bool | int | float | str


@dataclass(frozen=True)
class Boundary:
    """The one tensor between two parts; `shape` is without the batch dimension.

    A shape is (C, H, W) for feature maps, (T, D) for tokens, (D,) for a vector, or (T,) with
    `integer` set for token ids.
    """

    shape: tuple[int, ...]
    integer: bool = False

    @property
    def kind(self) -> Literal["map", "tokens", "vector", "ids"]:
        if self.integer:
            return "ids"
        kinds: dict[int, Literal["map", "tokens", "vector"]] = {3: "map", 2: "tokens", 1: "vector"}
        if len(self.shape) not in kinds:
            raise ValueError(f"a boundary is (C,H,W), (T,D) or (D,), not {self.shape}")
        return kinds[len(self.shape)]

    @property
    def width(self) -> int:
        """Channels of a map, or features of a token or vector."""
        return self.shape[0] if len(self.shape) == 3 else self.shape[-1]

    def scaled(self, share: float) -> Boundary:
        """The boundary with `share` times the width, at least 1; token ids are not changed."""
        if self.integer or share == 1:
            return self
        width = max(1, round(self.width * share))
        if self.kind == "map":
            return Boundary((width, *self.shape[1:]))
        return Boundary((*self.shape[:-1], width))

    def __str__(self) -> str:
        names = {"map": "C,H,W", "tokens": "T,D", "vector": "D", "ids": "T"}
        return f"({names[self.kind]}) = ({', '.join(map(str, self.shape))})"


MOST_PARTS = 100_000  # what is read from a file may claim any number


@dataclass(frozen=True, order=True)
class Span:
    """A contiguous run of guide parts [start, stop).

    Attributes:
        names: the guide's names of these parts, for texts that people read; empty if they are not
            known. Spans with and without names are equal.
    """

    start: int
    stop: int
    names: tuple[str, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a span is 0 <= start < stop, not [{self.start}, {self.stop})")
        if self.stop > MOST_PARTS:
            raise ValueError(f"a guide has at most {MOST_PARTS:,} parts, not {self.stop}")
        if self.names and len(self.names) != len(self):
            raise ValueError(f"{len(self)} parts cannot have {len(self.names)} names")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        """Names of the first and the last part; their numbers if the names are not known."""
        if self.names:
            return self.names[0] if len(self) == 1 else f"{self.names[0]}–{self.names[-1]}"
        return f"{self.start}-{self.stop - 1}" if len(self) > 1 else f"{self.start}"

    @property
    def text(self) -> str:
        """The span in a sentence: ``part layer1.0`` or ``parts layer1.0–layer1.2``."""
        return f"part{'s' if len(self) > 1 else ''} {self}"


def span_of(start: int, stop: int, names: Sequence[str]) -> Span:
    """A span with its parts' names.

    Args:
        names: names of all parts of the guide, in order.
    """
    return Span(start, stop, tuple(names[start:stop]))


class HashedOnce:
    """A frozen dataclass whose hash is computed once: samplers look it up all the time."""

    _hash: int

    def __hash__(self) -> int:
        try:
            return self._hash
        except AttributeError:
            # The fields' values: nothing else is kept in the instance before its hash.
            object.__setattr__(self, "_hash", hash(tuple(self.__dict__.values())))
            return self._hash

    def __getstate__(self) -> dict[str, Any]:
        """Without the hash, which is another one in another process."""
        return {name: value for name, value in self.__dict__.items() if name != "_hash"}


@dataclass(frozen=True)
class BlockChoice(HashedOnce):
    """One block of a target, and the span of guide parts that it replaces.

    Attributes:
        width_share: width of its outlet as a share of the guide's boundary there; always 1 unless
            the space has free widths.
    """

    span: Span
    block: str
    hyperparameters: tuple[tuple[str, Hyperparameter], ...] = ()
    width_share: float = 1.0

    __hash__ = HashedOnce.__hash__

    @property
    def kwargs(self) -> dict[str, Hyperparameter]:
        return dict(self.hyperparameters)

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={value}" for name, value in self.hyperparameters)
        share = "" if self.width_share == 1 else f"@{self.width_share:g}"
        return f"{self.block}({inner}){share}" if inner else f"{self.block}{share}"


@dataclass(frozen=True)
class Architecture(HashedOnce):
    """Pairing and block choices: a partition of the guide's parts, in order.

    Raises:
        ValueError: the spans leave a gap or overlap.
    """

    choices: tuple[BlockChoice, ...]

    __hash__ = HashedOnce.__hash__

    def __post_init__(self) -> None:
        position = 0
        for choice in self.choices:
            if choice.span.start != position:
                raise ValueError(
                    f"an architecture's spans must be adjacent: block {choice.block!r} for "
                    f"{choice.span.text} starts at part {choice.span.start} (from 0), expected "
                    f"{position}"
                )
            position = choice.span.stop
        if not self.choices:
            raise ValueError("an architecture needs at least one block")

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, equal for equal choices on every machine."""
        return short_hash(self._identity())

    @property
    def pairing(self) -> str:
        """The spans as text: ``stem|layer1.0–layer1.1|head``; ``0|1-2|3`` without names."""
        return "|".join(str(choice.span) for choice in self.choices)

    @property
    def blocks(self) -> str:
        """The blocks in order as text: ``keep|depthwise(expand=2)|keep``."""
        return "|".join(str(choice) for choice in self.choices)

    @property
    def title(self) -> str:
        """Name in dashboards: its id, and the blocks that are not the guide's, each counted once.

        At most 100 characters.
        """
        counts = Counter(str(choice) for choice in self.choices if choice.block != "keep")
        new = (f"{count} × {name}" if count > 1 else name for name, count in counts.items())
        title = f"architecture {self.id}: {', '.join(new) or 'the guide'}"
        return title if len(title) <= 100 else f"{title[:99]}…"

    def label(self, position: int) -> str:
        """One block as text: ``1: depthwise(expand=2) for parts layer1.0–layer1.1``."""
        choice = self.choices[position]
        return f"{position}: {choice} for {choice.span.text}"

    @property
    def stop(self) -> int:
        """Number of guide parts that the architecture covers."""
        return self.choices[-1].span.stop

    def named(self, names: Sequence[str]) -> Architecture:
        """The same architecture with the names of the guide's parts.

        Args:
            names: names of all parts of the guide, in order.
        """
        return Architecture(
            tuple(
                replace(choice, span=span_of(choice.span.start, choice.span.stop, names))
                for choice in self.choices
            )
        )

    def to_json(self) -> list[dict[str, Any]]:
        return [
            {**item, **({"parts": list(choice.span.names)} if choice.span.names else {})}
            for item, choice in zip(self._identity(), self.choices, strict=True)
        ]

    def _identity(self) -> list[dict[str, Any]]:
        """The choices without names of parts, on which the id does not depend."""
        return [
            {
                "span": [choice.span.start, choice.span.stop],
                "block": choice.block,
                "hyperparameters": dict(choice.hyperparameters),
                # Left out at the guide's width, so that an id does not depend on free widths.
                **({} if choice.width_share == 1 else {"width_share": choice.width_share}),
            }
            for choice in self.choices
        ]

    @classmethod
    def from_json(cls, data: list[dict[str, Any]]) -> Architecture:
        """The inverse of `to_json`.

        Raises:
            ValueError: the data are not a list of choices with adjacent spans.
        """
        try:
            choices = tuple(
                BlockChoice(
                    Span(
                        int(item["span"][0]),
                        int(item["span"][1]),
                        tuple(map(str, item.get("parts", ()))),
                    ),
                    str(item["block"]),
                    tuple(sorted(item.get("hyperparameters", {}).items())),
                    float(item.get("width_share", 1.0)),
                )
                for item in data
            )
        except (KeyError, TypeError, IndexError, AttributeError) as error:
            raise ValueError(
                'an architecture is a list of {"span": [start, stop], "block": name, '
                f'"hyperparameters": {{…}}}}; this one is not: {error!r}'
            ) from error
        return cls(choices)

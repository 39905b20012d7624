"""Architectures: boundaries, spans of guide parts, and a block choice for each span."""

from __future__ import annotations

from dataclasses import dataclass
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


@dataclass(frozen=True, order=True)
class Span:
    """A contiguous run of guide parts [start, stop)."""

    start: int
    stop: int

    def __post_init__(self) -> None:
        if not 0 <= self.start < self.stop:
            raise ValueError(f"a span is 0 <= start < stop, not [{self.start}, {self.stop})")

    def __len__(self) -> int:
        return self.stop - self.start

    def __str__(self) -> str:
        return f"{self.start}-{self.stop - 1}" if len(self) > 1 else f"{self.start}"


@dataclass(frozen=True)
class BlockChoice:
    """One block of a target, and the span of guide parts that it replaces.

    Attributes:
        width_share: width of its outlet as a share of the guide's boundary there; always 1 unless
            the space has free widths.
    """

    span: Span
    block: str
    hyperparameters: tuple[tuple[str, Hyperparameter], ...] = ()
    width_share: float = 1.0

    @property
    def kwargs(self) -> dict[str, Hyperparameter]:
        return dict(self.hyperparameters)

    def __str__(self) -> str:
        inner = ", ".join(f"{name}={value}" for name, value in self.hyperparameters)
        share = "" if self.width_share == 1 else f"@{self.width_share:g}"
        return f"{self.block}({inner}){share}" if inner else f"{self.block}{share}"


@dataclass(frozen=True)
class Architecture:
    """Pairing and block choices: a partition of the guide's parts, in order.

    Raises:
        ValueError: the spans leave a gap or overlap.
    """

    choices: tuple[BlockChoice, ...]

    def __post_init__(self) -> None:
        position = 0
        for choice in self.choices:
            if choice.span.start != position:
                raise ValueError(
                    f"an architecture's spans must be adjacent: block {choice.block!r} starts at "
                    f"part {choice.span.start}, expected {position}"
                )
            position = choice.span.stop
        if not self.choices:
            raise ValueError("an architecture needs at least one block")

    @property
    def id(self) -> str:
        """Twelve hexadecimal digits, equal for equal choices on every machine."""
        return short_hash(self.to_json())

    @property
    def pairing(self) -> str:
        """The spans as text: ``0|1-2|3``."""
        return "|".join(str(choice.span) for choice in self.choices)

    @property
    def blocks(self) -> str:
        """The blocks in order as text: ``keep|depthwise(expand=2)|keep``."""
        return "|".join(str(choice) for choice in self.choices)

    def label(self, position: int) -> str:
        """One block as text: ``1: depthwise(expand=2) for parts 1-2``."""
        choice = self.choices[position]
        return f"{position}: {choice} for parts {choice.span}"

    @property
    def stop(self) -> int:
        """Number of guide parts that the architecture covers."""
        return self.choices[-1].span.stop

    def to_json(self) -> list[dict[str, Any]]:
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
                    Span(int(item["span"][0]), int(item["span"][1])),
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

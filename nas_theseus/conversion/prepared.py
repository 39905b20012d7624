"""Base classes of this package's similarities, which compute the guide's side once per batch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from nas_theseus.conversion.features import (
    Examples,
    centred,
    full_precision,
    pooled,
    position_count,
    projected,
    rows_of_positions,
    whole_examples,
)
from nas_theseus.errors import ConversionError, ShapeError


@dataclass(frozen=True)
class Prepared:
    """The guide's side of a similarity for one fixed batch.

    Attributes:
        shape: shape of the guide's features.
        pooled_shape: their shape after pooling.
        guide: the similarity's results from them.
    """

    shape: tuple[int, ...]
    pooled_shape: tuple[int, ...]
    guide: Any


@dataclass(frozen=True, kw_only=True)
class _Pooled:
    """Options of every similarity of this package.

    Attributes:
        examples: what counts as an example in (N, C, H, W) and (N, T, D): "maps", the whole map
            flattened, or "positions", each position as a row of its channels. Only positions
            justify a 1x1 stitch: maps whose positions are permuted still have similarity 1. "auto"
            means maps for (N, C, H, W) and positions for (N, T, D).
        pool: average feature maps down to pool x pool before comparing; None for no pooling.

    Raises:
        ConversionError: a value is out of range.
    """

    name: ClassVar[str]
    minimum_examples: ClassVar[int]

    examples: Examples = "auto"
    pool: int | None = None

    def __post_init__(self) -> None:
        if self.examples not in get_args(Examples):
            raise ConversionError(
                f"similarity {self.name!r}: examples must be 'maps', 'positions' or 'auto', "
                f"not {self.examples!r}"
            )
        self._refuse_below_one("pool")

    def _refuse_below_one(self, *fields: str) -> None:
        for field in fields:
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConversionError(
                    f"similarity {self.name!r}: {field} must be 1 or more, not {value}"
                )

    def _do_not_fit(self, features: Tensor, prepared: Prepared) -> ShapeError:
        return ShapeError(
            f"similarity {self.name!r} on {self.examples}: target features "
            f"{tuple(features.shape)} do not fit guide features {prepared.shape}"
        )


@dataclass(frozen=True, kw_only=True)
class RowSimilarity(_Pooled, ABC):
    """Compares two sets of rows, one per example; does not depend on rotations of the features.

    A part aligned with it has its own basis; it needs a stitch (`stitch_layer`) to fit the guide.

    Attributes:
        pool: Default: 8. It keeps CKA near 8 % of a residual block's step (16x32x32, batch 256),
            where the Gram matrix of raw features costs over 50 %: benchmarks/cka_step.
        project: fixed random projection of wider rows to this width; None for none.
        rows: largest number of positions to compare, a fixed random choice; None for all.
        seed: seed of the projection and of the choice of positions.
    """

    aligned_basis: ClassVar[bool] = False

    pool: int | None = 8
    project: int | None = None
    rows: int | None = 4096
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        self._refuse_below_one("project", "rows")

    @property
    def minimum_rows(self) -> int:
        """The fewest rows for which the similarity is defined and can differ from chance."""
        return self.minimum_examples

    @abstractmethod
    def guide_side(self, rows: Tensor) -> Any:
        """Results for comparisons from the guide's centred rows, (N, D)."""

    @abstractmethod
    def compare(self, rows: Tensor, guide: Any) -> Tensor:
        """The similarity of the target's centred rows, (N, E), with the guide's side; 1 is best."""

    def prepare(self, guide: Tensor) -> Prepared:
        """Compute the guide's side once for a fixed batch, (N, C, H, W), (N, T, D) or (N, D).

        Raises:
            ShapeError: there are too few examples.
        """
        with torch.no_grad(), full_precision(guide):
            features = pooled(guide, self.pool)
            rows = centred(self._rows(features))
            if len(rows) < self.minimum_rows:
                raise ShapeError(
                    f"similarity {self.name!r}: guide features {tuple(guide.shape)} have "
                    f"{len(rows)} examples, {self.minimum_rows} are needed: use a larger batch"
                )
            return Prepared(tuple(guide.shape), tuple(features.shape), self.guide_side(rows))

    def loss(self, features: Tensor, prepared: Prepared) -> Tensor:
        """One minus the similarity, a scalar; 0 is perfect.

        Finite, with a finite gradient, for constant features as well.

        Raises:
            ShapeError: the features are not of the guide's examples.
        """
        with full_precision(features):
            given = pooled(features, self.pool)
            if not self._comparable(tuple(given.shape), prepared.pooled_shape):
                raise self._do_not_fit(features, prepared)
            return 1 - self.compare(centred(self._rows(given)), prepared.guide)

    def _comparable(self, shape: tuple[int, ...], guide: tuple[int, ...]) -> bool:
        whole = whole_examples(self.examples, len(guide))
        same = whole or position_count(shape) == position_count(guide)
        return same and shape[0] == guide[0]

    def _rows(self, features: Tensor) -> Tensor:
        if whole_examples(self.examples, features.ndim):
            rows = features.flatten(1)
        else:
            rows = rows_of_positions(features, self.rows, self.seed)
        return projected(rows, self.project, self.seed)


@dataclass(frozen=True, kw_only=True)
class ElementSimilarity(_Pooled, ABC):
    """Compares features one by one, so that a part aligned with it has the guide's basis.

    Attributes:
        examples: Default: "positions".
    """

    aligned_basis: ClassVar[bool] = True

    examples: Examples = "positions"

    @abstractmethod
    def guide_side(self, features: Tensor) -> Any:
        """Results for the loss from the guide's pooled features."""

    @abstractmethod
    def element_loss(self, features: Tensor, guide: Any) -> Tensor:
        """The loss of the target's pooled features, of the guide's shape; 0 is perfect."""

    def prepare(self, guide: Tensor) -> Prepared:
        """Compute the guide's side once for a fixed batch, (N, C, H, W), (N, T, D) or (N, D)."""
        with torch.no_grad(), full_precision(guide):
            features = pooled(guide, self.pool)
            return Prepared(tuple(guide.shape), tuple(features.shape), self.guide_side(features))

    def loss(self, features: Tensor, prepared: Prepared) -> Tensor:
        """The loss, a scalar; 0 is perfect.

        Finite, with a finite gradient, for constant features as well.

        Raises:
            ShapeError: the features do not have the guide's shape.
        """
        with full_precision(features):
            given = pooled(features, self.pool)
            if tuple(given.shape) != prepared.pooled_shape:
                raise self._do_not_fit(features, prepared)
            return self.element_loss(given, prepared.guide)

"""How alike two sets of features are: differentiable similarities and the loss made of them.

CKA and D-MNN ignore rotation and scale, so a part aligned by them speaks in a basis of its own and
needs a stitch (`stitching`) to be read by the guide; regression and cosine align the basis too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_theseus.convert.kernels import (
    biased_cka,
    biased_norm,
    centred,
    full_precision,
    log_neighbours,
    mean_cosine,
    overlap,
    unbiased_cka,
    unbiased_norm,
    variance,
    wide,
)
from nas_theseus.errors import ConversionError, ShapeError

Examples = Literal["maps", "positions", "auto"]

# Fewest examples for which the similarity is defined and can differ from its value at random.
MINIMUM_EXAMPLES = {"cka": 2, "cka-unbiased": 4, "dmnn": 3, "regression": 2, "cosine": 1}

# What `similarity(name)` starts from. Pooling to 8x8 keeps CKA near 8 % of a residual block's step
# (16x32x32, batch 256), where the Gram matrix of raw features costs over 50 %: benchmarks/cka_step.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "cka": {"examples": "auto", "pool": 8},
    "cka-unbiased": {"examples": "auto", "pool": 8},
    "dmnn": {"examples": "auto", "pool": 8, "rows": 1024},
    "regression": {"examples": "positions"},
    "cosine": {"examples": "positions"},
}


def check_features(x: Tensor, y: Tensor, *, part: str, minimum: int = 4) -> None:
    """Refuse features that no similarity can align; call it once, outside the training loop.

    Args:
        x: the target part's features, shape (N, ...).
        y: the guide's features of the same examples, shape (N, ...).
        part: name of the part, for the message.
        minimum: fewest examples.

    Raises:
        ShapeError: the numbers of examples differ.
        ConversionError: too few examples; NaN or infinite values; features that are the same for
            every example.
    """
    if x.shape[:1] != y.shape[:1]:
        raise ShapeError(
            f"part {part!r}: target features {tuple(x.shape)} and guide features "
            f"{tuple(y.shape)} are not of the same examples"
        )
    if x.shape[0] < minimum:
        raise ConversionError(
            f"part {part!r}: {x.shape[0]} examples are too few to compare features, "
            f"{minimum} are needed: use a larger batch"
        )
    for owner, features in (("target", x.detach()), ("guide", y.detach())):
        bad = int((~torch.isfinite(features)).sum())
        if bad:
            raise ConversionError(
                f"part {part!r}: {bad} of {features.numel()} {owner} features are NaN or "
                "infinite: lower the learning rate, or check the guide's weights and data"
            )
        if float(centred(wide(features).flatten(1)).square().sum()) < 0.5:
            raise ConversionError(
                f"part {part!r}: the {owner} features are the same for all {x.shape[0]} examples, "
                "so there is nothing to align: look for dead units, or a part that ignores its "
                "input"
            )


@dataclass(frozen=True)
class Prepared:
    """The guide's side of a similarity for one fixed batch; made by `Similarity.prepare`."""

    shape: tuple[int, ...]
    pooled_shape: tuple[int, ...]
    features: Tensor
    gram: Tensor | None = None
    scale: Tensor | None = None


@dataclass(frozen=True)
class Similarity:
    """Which similarity aligns a part with the guide, and on what.

    Attributes:
        name: "cka", "cka-unbiased", "dmnn", "regression" or "cosine".
        examples: what an example is on (N, C, H, W) and (N, T, D): "maps", the whole map
            flattened, or "positions", each position a row of its channels. Only the second
            licenses a 1x1 stitch: a spatial permutation leaves the first at 1. "auto" takes maps
            on (N, C, H, W) and positions on (N, T, D), where each token is predicted from.
        pool: average feature maps down to pool x pool before comparing; None for no pooling.
        project: fixed random projection of wider features to this width, for CKA and D-MNN.
        temperature: of D-MNN.
        rows: at most so many positions are compared, a fixed random set of them; None for all.
        k: neighbours of D-MNN.
        seed: of the projection and of the choice of positions.

    Raises:
        ConversionError: an unknown name or a value out of range.
    """

    name: str
    examples: Examples
    pool: int | None = None
    project: int | None = None
    temperature: float = 0.1
    rows: int | None = 4096
    k: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.name not in MINIMUM_EXAMPLES:
            raise ConversionError(_unknown(self.name))
        if self.examples not in get_args(Examples):
            raise ConversionError(
                f"similarity {self.name!r}: examples are 'maps', 'positions' or 'auto', "
                f"not {self.examples!r}"
            )
        for field in ("pool", "project", "rows", "k"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise ConversionError(
                    f"similarity {self.name!r}: {field} is {value}, not 1 or more"
                )
        if not 0 < self.temperature < math.inf:
            raise ConversionError(
                f"similarity {self.name!r}: temperature is {self.temperature}, not above 0"
            )
        if self.aligned_basis and self.project is not None:
            raise ConversionError(
                f"similarity {self.name!r} compares features one by one: a projection would mix "
                "them. Leave out project, or use 'cka'"
            )

    @property
    def aligned_basis(self) -> bool:
        """True when a low loss means the guide's own basis, so that no stitch is needed."""
        return self.name in ("regression", "cosine")

    def prepare(self, guide: Tensor) -> Prepared:
        """Compute the guide's side once for a fixed batch, (N, C, H, W), (N, T, D) or (N, D).

        Raises:
            ShapeError: too few examples.
        """
        with torch.no_grad(), full_precision(guide):
            shape = tuple(guide.shape)
            pooled = self._pooled(guide)
            if self.aligned_basis:
                axes = [i for i in range(pooled.ndim) if i != self._channels(pooled)]
                scale = variance(pooled, [0] if self._whole(pooled.ndim) else axes)
                return Prepared(shape, pooled.shape, pooled, scale=scale)
            rows = centred(self._rows(pooled))
            needed = max(MINIMUM_EXAMPLES[self.name], self.k + 1 if self.name == "dmnn" else 0)
            if len(rows) < needed:
                raise ShapeError(
                    f"similarity {self.name!r}: guide features {shape} hold {len(rows)} examples, "
                    f"{needed} are needed: use a larger batch"
                )
            if self.name == "dmnn":
                neighbours = log_neighbours(rows, self.temperature, self.k)
                return Prepared(shape, pooled.shape, neighbours)
            # A target about as wide as the guide will take the Gram form: have it ready.
            gram = rows @ rows.T if len(rows) <= 2 * rows.shape[1] else None
            norm = biased_norm(rows) if self.name == "cka" else unbiased_norm(rows)
            return Prepared(shape, pooled.shape, rows, gram, norm)

    def loss(self, features: Tensor, prepared: Prepared) -> Tensor:
        """One minus the similarity, a scalar; 0 is perfect. For regression the relative error.

        Finite, with a finite gradient, for constant features as well.

        Raises:
            ShapeError: the features are not of the guide's examples or, where they are compared
                one by one, not of its shape.
        """
        with full_precision(features):
            pooled = self._pooled(features)
            if not self._comparable(pooled.shape, prepared.pooled_shape):
                raise ShapeError(
                    f"similarity {self.name!r} on {self.examples}: target features "
                    f"{tuple(features.shape)} do not fit guide features {prepared.shape}"
                )
            if self.name == "regression":
                return F.mse_loss(pooled, prepared.features) / _known(prepared.scale)
            if self.name == "cosine":
                a, b, axis = pooled, prepared.features, self._channels(pooled)
                if self._whole(pooled.ndim):
                    a, b, axis = a.flatten(1), b.flatten(1), 1
                return 1 - mean_cosine(a, b, axis)
            rows = centred(self._rows(pooled))
            if self.name == "dmnn":
                own = log_neighbours(rows, self.temperature, self.k)
                return 1 - overlap(own, prepared.features)
            cka = biased_cka if self.name == "cka" else unbiased_cka
            return 1 - cka(rows, prepared.features, prepared.gram, _known(prepared.scale))

    def score(self, x: Tensor, y: Tensor) -> Tensor:
        """The similarity of features x with the guide's features y, without gradient; 1 is best."""
        with torch.no_grad():
            return 1 - self.loss(x, self.prepare(y))

    def _whole(self, dimensions: int) -> bool:
        """Whether one example is everything at its index of the batch."""
        return self.examples == "maps" or (self.examples == "auto" and dimensions != 3)

    def _channels(self, features: Tensor) -> int:
        return 1 if features.ndim == 4 else features.ndim - 1

    def _pooled(self, features: Tensor) -> Tensor:
        features = wide(features)
        if self.pool is None or features.ndim != 4:
            return features
        height, width = (min(self.pool, size) for size in features.shape[2:])
        return F.adaptive_avg_pool2d(features, (height, width))

    def _comparable(self, shape: tuple[int, ...], guide: tuple[int, ...]) -> bool:
        if self.aligned_basis:
            return shape == guide
        same = self._whole(len(guide)) or _positions(shape) == _positions(guide)
        return same and shape[0] == guide[0]

    def _rows(self, features: Tensor) -> Tensor:
        """One row an example, (rows, width), sampled and projected as asked."""
        if self._whole(features.ndim) or features.ndim == 2:
            rows = features.flatten(1)
        else:
            places = features.flatten(2).transpose(1, 2) if features.ndim == 4 else features
            batch, count, width = places.shape
            if self.rows is not None and self.rows < batch * count:
                chosen = _chosen_rows(batch * count, self.rows, self.seed, features.device)
                rows = places[chosen // count, chosen % count]
            else:
                rows = places.reshape(-1, width)
        if self.project is None or rows.shape[1] <= self.project:
            return rows
        return _sketch(rows, self.project, self.seed)


def similarity(name: str, **options: Any) -> Similarity:
    """The named similarity with defaults that keep it cheap; options are `Similarity`'s fields.

    Raises:
        ConversionError: an unknown name or option, or a value out of range.
    """
    if name not in _DEFAULTS:
        raise ConversionError(_unknown(name))
    allowed = {field.name for field in fields(Similarity)} - {"name"}
    if strange := sorted(set(options) - allowed):
        raise ConversionError(
            f"similarity {name!r} has no option {', '.join(strange)}; "
            f"options are {', '.join(sorted(allowed))}"
        )
    return Similarity(name, **{**_DEFAULTS[name], **options})


def _unknown(name: str) -> str:
    return f"no similarity {name!r}; use one of {', '.join(_DEFAULTS)}"


def _known(scale: Tensor | None) -> Tensor:
    if scale is None:
        raise ConversionError("these features were prepared for another similarity")
    return scale


def _positions(shape: tuple[int, ...]) -> int:
    return math.prod(shape[2:]) if len(shape) == 4 else math.prod(shape[1:-1])


@lru_cache(maxsize=64)
def _chosen_rows(total: int, count: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randperm(total, generator=generator)[:count].sort().values.to(device)


@lru_cache(maxsize=64)
def _signs(groups: int, width: int, seed: int, device: torch.device) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (groups, width), generator=generator)
    return (signs * 2.0 - 1.0).to(device)


def _sketch(rows: Tensor, width: int, seed: int) -> Tensor:
    """Random signed sums of features, (N, width): inner products stay unbiased over the signs.

    One pass over the features, where a dense Gaussian projection costs as much as the Gram matrix
    that it is to make cheaper.
    """
    groups = -(-rows.shape[1] // width)
    padded = F.pad(rows, (0, groups * width - rows.shape[1]))
    signs = _signs(groups, width, seed, rows.device).to(rows.dtype)
    return (padded.view(-1, groups, width) * signs).sum(1)

"""How alike two sets of features are: differentiable similarities and the loss made of them.

CKA and D-MNN ignore rotation and scale, so a part aligned by them speaks in a basis of its own and
needs a stitch (`stitching`) to be read by the guide; regression and cosine align the basis too.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

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

# Features are scaled to a Gram matrix of trace 1, whose norm is at least 1/sqrt(N): a smaller norm
# than this is rounding noise around constant features.
_SMALLEST_NORM = 1e-6


def linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear centred kernel alignment of two sets of features, in [0, 1].

    Takes the Gram form (N x N) or the feature form (D x E), whichever is cheaper for the shapes.

    Args:
        x: features of N examples, shape (N, ...); flattened to (N, D).
        y: features of the same N examples, shape (N, ...); flattened to (N, E).

    Returns:
        Scalar tensor, differentiable in both arguments; 0 where either is constant.

    Raises:
        ShapeError: N differs, or N < 2.

    Source: Kornblith et al. 2019, arXiv:1905.00414, equation 3 and section 3.
    """
    with _full_precision(x):
        a, b = (_centred(features) for features in _two_dimensional(x, y, minimum=2))
        return _biased(a, b, None, _biased_norm(b))


def unbiased_linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear CKA from the unbiased estimator of HSIC: 0 on average for independent features.

    The biased form is inflated when features outnumber examples; this one may leave [0, 1].

    Args and Returns as in `linear_cka`.

    Raises:
        ShapeError: N differs, or N < 4.

    Source: Song et al. 2012, equation 5; Nguyen et al. 2021, arXiv:2010.15327, section 3.
    """
    with _full_precision(x):
        a, b = (_centred(features) for features in _two_dimensional(x, y, minimum=4))
        return _unbiased(a, b, None, _unbiased_norm(b))


def mutual_neighbours(x: Tensor, y: Tensor, temperature: float = 0.1, k: int = 1) -> Tensor:
    """Differentiable mutual nearest neighbours (D-MNN), in [0, 1].

    Each example holds a distribution over the others, the softmax of cosine similarities (of
    centred features) over the temperature, in x and in y; the result is the mean over examples of
    the Bhattacharyya overlap of the two. As the temperature goes to 0 it is the share of the k
    nearest neighbours that the spaces agree on (mutual kNN, Huh et al. 2024, arXiv:2405.07987).
    For k > 1 similarities above an example's k-th largest count as the k-th, so that the k nearest
    weigh the same.

    Ours: Network of Theseus (arXiv:2512.04198) names D-MNN, but its formula is not public.

    Args:
        x: features of N examples, shape (N, ...).
        y: features of the same N examples, shape (N, ...).
        temperature: of the softmax, above 0.
        k: neighbours, from 1 to N - 1.

    Raises:
        ShapeError: N differs, or N < 3, or k is not below N.
    """
    with _full_precision(x):
        a, b = _two_dimensional(x, y, minimum=3)
        guide = _log_neighbours(_centred(b), temperature, k)
        return _overlap(_log_neighbours(_centred(a), temperature, k), guide)


def relative_mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of x over the variance of y, the guide's, about its mean example.

    Raises:
        ShapeError: the shapes differ.
    """
    _same_shape(x, y)
    with _full_precision(x):
        return F.mse_loss(_wide(x), _wide(y)) / _variance(_wide(y), [0])


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean over examples of the cosine between their features, in [-1, 1]; not centred.

    Raises:
        ShapeError: the shapes differ.
    """
    _same_shape(x, y)
    with _full_precision(x):
        return _mean_cosine(_wide(x).flatten(1), _wide(y).flatten(1), dim=1)


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
        if float(_centred(_wide(features).flatten(1)).square().sum()) < 0.5:
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
        with torch.no_grad(), _full_precision(guide):
            shape = tuple(guide.shape)
            pooled = self._pooled(guide)
            if self.aligned_basis:
                axes = [i for i in range(pooled.ndim) if i != self._channels(pooled)]
                scale = _variance(pooled, [0] if self._whole(pooled.ndim) else axes)
                return Prepared(shape, pooled.shape, pooled, scale=scale)
            rows = _centred(self._rows(pooled))
            needed = max(MINIMUM_EXAMPLES[self.name], self.k + 1 if self.name == "dmnn" else 0)
            if len(rows) < needed:
                raise ShapeError(
                    f"similarity {self.name!r}: guide features {shape} hold {len(rows)} examples, "
                    f"{needed} are needed: use a larger batch"
                )
            if self.name == "dmnn":
                neighbours = _log_neighbours(rows, self.temperature, self.k)
                return Prepared(shape, pooled.shape, neighbours)
            # A target about as wide as the guide will take the Gram form: have it ready.
            gram = rows @ rows.T if len(rows) <= 2 * rows.shape[1] else None
            norm = _biased_norm(rows) if self.name == "cka" else _unbiased_norm(rows)
            return Prepared(shape, pooled.shape, rows, gram, norm)

    def loss(self, features: Tensor, prepared: Prepared) -> Tensor:
        """One minus the similarity, a scalar; 0 is perfect. For regression the relative error.

        Finite, with a finite gradient, for constant features as well.

        Raises:
            ShapeError: the features are not of the guide's examples or, where they are compared
                one by one, not of its shape.
        """
        with _full_precision(features):
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
                return 1 - _mean_cosine(a, b, axis)
            rows = _centred(self._rows(pooled))
            if self.name == "dmnn":
                own = _log_neighbours(rows, self.temperature, self.k)
                return 1 - _overlap(own, prepared.features)
            cka = _biased if self.name == "cka" else _unbiased
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
        features = _wide(features)
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


@contextmanager
def _full_precision(features: Tensor) -> Iterator[None]:
    # Gram matrices of half-precision features lose the small differences that a loss is made of.
    with torch.autocast(features.device.type, enabled=False):
        yield


def _wide(features: Tensor) -> Tensor:
    return features if features.dtype == torch.float64 else features.float()


def _same_shape(x: Tensor, y: Tensor) -> None:
    if x.shape != y.shape:
        raise ShapeError(f"features {tuple(x.shape)} and {tuple(y.shape)} differ in shape")


def _two_dimensional(x: Tensor, y: Tensor, minimum: int) -> tuple[Tensor, Tensor]:
    if x.shape[:1] != y.shape[:1] or x.ndim < 2 or y.ndim < 2 or x.shape[0] < minimum:
        raise ShapeError(
            f"features {tuple(x.shape)} and {tuple(y.shape)} must be (N, ...) of the same "
            f"N >= {minimum} examples"
        )
    return _wide(x).flatten(1), _wide(y).flatten(1)


def _centred(rows: Tensor) -> Tensor:
    """Columns centred, and scaled to a Gram matrix of trace 1 so that no product overflows."""
    mean = rows.mean(0)
    centred = rows - mean
    with torch.no_grad():
        # The scale carries no gradient: what is computed from it does not depend on scale. The
        # floor leaves the rounding noise of constant features small instead of blowing it up.
        noise = len(rows) * mean.square().sum() * (100 * torch.finfo(rows.dtype).eps) ** 2
        scale = (centred.square().sum() + noise + 1e-30).sqrt()
    return centred / scale


def _biased_norm(rows: Tensor) -> Tensor:
    smaller = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    norm: Tensor = torch.linalg.norm(smaller).clamp_min(_SMALLEST_NORM)
    return norm


def _biased(x: Tensor, y: Tensor, gram: Tensor | None, norm: Tensor) -> Tensor:
    """CKA of centred rows; `gram` of y where known, `norm` the Frobenius norm of it."""
    if len(x) <= x.shape[1] + y.shape[1]:
        kernel = x @ x.T
        shared = (kernel * (y @ y.T if gram is None else gram)).sum()
    else:
        kernel = x.T @ x
        shared = (y.T @ x).square().sum()
    cka: Tensor = shared / (torch.linalg.norm(kernel).clamp_min(_SMALLEST_NORM) * norm)
    return cka


def _hsic(x: Tensor, y: Tensor, gram: Tensor | None) -> Tensor:
    """N(N-3) times the unbiased HSIC: the factor cancels in CKA. Song et al. 2012, equation 5."""
    n = len(x)
    if n <= x.shape[1] + y.shape[1]:
        kernel = (x @ x.T).fill_diagonal_(0)
        other = kernel if y is x else (y @ y.T if gram is None else gram.clone()).fill_diagonal_(0)
        shared, own, others = (kernel * other).sum(), kernel.sum(1), other.sum(1)
    else:
        size, other_size = x.square().sum(1), y.square().sum(1)
        shared = (y.T @ x).square().sum() - size @ other_size
        # Rows sum to zero over the examples, so a Gram matrix's row sums to minus its diagonal.
        own, others = -size, -other_size
    return shared + own.sum() * others.sum() / ((n - 1) * (n - 2)) - 2 / (n - 2) * (own @ others)


def _unbiased_norm(rows: Tensor) -> Tensor:
    return _hsic(rows, rows, None).clamp_min(_SMALLEST_NORM**2).sqrt()


def _unbiased(x: Tensor, y: Tensor, gram: Tensor | None, norm: Tensor) -> Tensor:
    return _hsic(x, y, gram) / (_unbiased_norm(x) * norm)


def _log_neighbours(rows: Tensor, temperature: float, k: int) -> Tensor:
    """Logarithm of each row's distribution over the other rows, (N, N), from centred rows."""
    if not 1 <= k < len(rows):
        raise ShapeError(f"k = {k} neighbours need more than {k} examples, got {len(rows)}")
    # A row equal to the mean has no direction; the floor keeps its gradient finite.
    unit = F.normalize(rows, dim=1, eps=_SMALLEST_NORM)
    itself = torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    alike = (unit @ unit.T).masked_fill(itself, -math.inf)
    if k > 1:
        alike = torch.minimum(alike, alike.topk(k, dim=1).values[:, -1:])
    return torch.log_softmax(alike / temperature, dim=1)


def _overlap(log_x: Tensor, log_y: Tensor) -> Tensor:
    # exp of the mean of logarithms: the square root itself has an infinite slope at 0.
    agreement: Tensor = (0.5 * (log_x + log_y)).exp().sum(1).mean()
    return agreement


def _variance(features: Tensor, examples: Sequence[int]) -> Tensor:
    mean = features.mean(tuple(examples), keepdim=True)
    noise = mean.square().mean() * torch.finfo(features.dtype).eps ** 2
    return (features - mean).square().mean().clamp_min(noise + 1e-12)


def _mean_cosine(x: Tensor, y: Tensor, dim: int) -> Tensor:
    return F.cosine_similarity(x, y, dim=dim, eps=_SMALLEST_NORM).mean()


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

"""Similarities of two sets of features as pure functions: CKA, D-MNN, relative error and cosine.

Each has a plain form for two sets of features, and is made of pieces in which the guide's side can
be computed once: `similarity.Similarity` trains with those.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_theseus.errors import ShapeError

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
    with full_precision(x):
        a, b = (centred(features) for features in _two_dimensional(x, y, minimum=2))
        return biased_cka(a, b, None, biased_norm(b))


def unbiased_linear_cka(x: Tensor, y: Tensor) -> Tensor:
    """Linear CKA from the unbiased estimator of HSIC: 0 on average for independent features.

    The biased form is inflated when features outnumber examples; this one may leave [0, 1].

    Args and Returns as in `linear_cka`.

    Raises:
        ShapeError: N differs, or N < 4.

    Source: Song et al. 2012, equation 5; Nguyen et al. 2021, arXiv:2010.15327, section 3.
    """
    with full_precision(x):
        a, b = (centred(features) for features in _two_dimensional(x, y, minimum=4))
        return unbiased_cka(a, b, None, unbiased_norm(b))


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
    with full_precision(x):
        a, b = _two_dimensional(x, y, minimum=3)
        guide = log_neighbours(centred(b), temperature, k)
        return overlap(log_neighbours(centred(a), temperature, k), guide)


def relative_mse(x: Tensor, y: Tensor) -> Tensor:
    """Mean squared error of x over the variance of y, the guide's, about its mean example.

    Raises:
        ShapeError: the shapes differ.
    """
    _same_shape(x, y)
    with full_precision(x):
        return F.mse_loss(wide(x), wide(y)) / variance(wide(y), [0])


def cosine(x: Tensor, y: Tensor) -> Tensor:
    """Mean over examples of the cosine between their features, in [-1, 1]; not centred.

    Raises:
        ShapeError: the shapes differ.
    """
    _same_shape(x, y)
    with full_precision(x):
        return mean_cosine(wide(x).flatten(1), wide(y).flatten(1), dim=1)


@contextmanager
def full_precision(features: Tensor) -> Iterator[None]:
    """No autocast: half-precision Gram matrices lose the differences that a loss is made of."""
    with torch.autocast(features.device.type, enabled=False):
        yield


def wide(features: Tensor) -> Tensor:
    """Features in float64 as they are, in anything narrower as float32."""
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
    return wide(x).flatten(1), wide(y).flatten(1)


def centred(rows: Tensor) -> Tensor:
    """Columns centred, and scaled to a Gram matrix of trace 1 so that no product overflows."""
    mean = rows.mean(0)
    centred = rows - mean
    with torch.no_grad():
        # The scale carries no gradient: what is computed from it does not depend on scale. The
        # floor leaves the rounding noise of constant features small instead of blowing it up.
        noise = len(rows) * mean.square().sum() * (100 * torch.finfo(rows.dtype).eps) ** 2
        scale = (centred.square().sum() + noise + 1e-30).sqrt()
    return centred / scale


def biased_norm(rows: Tensor) -> Tensor:
    """Frobenius norm of the Gram matrix of centred rows, by the smaller of its two forms."""
    smaller = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    norm: Tensor = torch.linalg.norm(smaller).clamp_min(_SMALLEST_NORM)
    return norm


def biased_cka(x: Tensor, y: Tensor, gram: Tensor | None, norm: Tensor) -> Tensor:
    """CKA of centred rows; `gram` of y where known, `norm` its `biased_norm`."""
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


def unbiased_norm(rows: Tensor) -> Tensor:
    """Square root of the unbiased HSIC (times N(N-3)) of centred rows with themselves."""
    return _hsic(rows, rows, None).clamp_min(_SMALLEST_NORM**2).sqrt()


def unbiased_cka(x: Tensor, y: Tensor, gram: Tensor | None, norm: Tensor) -> Tensor:
    """Unbiased CKA of centred rows; `gram` of y where known, `norm` its `unbiased_norm`."""
    return _hsic(x, y, gram) / (unbiased_norm(x) * norm)


def log_neighbours(rows: Tensor, temperature: float, k: int) -> Tensor:
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


def overlap(log_x: Tensor, log_y: Tensor) -> Tensor:
    """Mean Bhattacharyya overlap of two sets of distributions, from their logarithms."""
    # exp of the mean of logarithms: the square root itself has an infinite slope at 0.
    agreement: Tensor = (0.5 * (log_x + log_y)).exp().sum(1).mean()
    return agreement


def variance(features: Tensor, examples: Sequence[int]) -> Tensor:
    """Mean square about the mean over the axes that number examples, never 0."""
    mean = features.mean(tuple(examples), keepdim=True)
    noise = mean.square().mean() * torch.finfo(features.dtype).eps ** 2
    return (features - mean).square().mean().clamp_min(noise + 1e-12)


def mean_cosine(x: Tensor, y: Tensor, dim: int) -> Tensor:
    """Mean cosine along one axis; 0 where either is 0."""
    return F.cosine_similarity(x, y, dim=dim, eps=_SMALLEST_NORM).mean()

"""Stitches between activation spaces: linear maps fitted by least squares, and their folding."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.errors import ConversionError, ShapeError
from nas_theseus.values import Boundary

Kind = Literal["map", "tokens", "vector", "ids"]

# Examples that `fit_stitch` holds in float64 at a time.
_CHUNK = 256


@dataclass(frozen=True)
class LinearMap:
    """The map y = weight x + bias between two activation spaces.

    Attributes:
        weight: shape (D2, D1).
        bias: shape (D2,).
        residual: share of the receiver's variance that it leaves unexplained, in [0, 1] when
            fitted with an intercept and little ridge.
    """

    weight: Tensor
    bias: Tensor
    residual: float = 0.0

    def __call__(self, features: Tensor) -> Tensor:
        """Rows (R, D1) to rows (R, D2)."""
        return F.linear(features, self.weight, self.bias)


class LeastSquares:
    """Least squares with intercept from batches of rows, none of which is kept.

    Only means and centred second moments are held, in float64, merged batch by batch (Chan et al.
    1983), so a mean far from 0 costs no digits. The normal equations square the condition number,
    which float64 affords for float32 data.

    Ours: the ridge is a share of the mean eigenvalue (trace / D1) of the sender's covariance, so
    it means the same at any scale and width; it makes rank-deficient senders (dead or copied
    channels) solvable and their surplus weights small. A ridge of 0 takes the minimum-norm
    solution from an eigendecomposition instead, which is slower for thousands of features.
    """

    def __init__(self, ridge: float = 1e-6) -> None:
        if not 0 <= ridge < float("inf"):
            raise ConversionError(f"least squares: the ridge is {ridge}, not 0 or above")
        self.ridge = ridge
        self.rows = 0
        self._mean_a = self._mean_b = self._aa = self._ab = torch.empty(0)
        self._bb = torch.zeros(())

    def add(self, a: Tensor, b: Tensor) -> None:
        """Take in rows of the sender, (R, D1), and what the receiver expects, (R, D2).

        Raises:
            ShapeError: not two-dimensional, the rows differ in number, or widths have changed.
        """
        if a.ndim != 2 or b.ndim != 2 or len(a) != len(b):
            raise ShapeError(
                f"least squares needs rows (R, D1) and (R, D2) of the same R, got "
                f"{tuple(a.shape)} and {tuple(b.shape)}"
            )
        count = len(a)
        if not count:
            return
        a, b = a.detach().double(), b.detach().double()
        if not self.rows:
            self._mean_a, self._mean_b = a.new_zeros(a.shape[1]), b.new_zeros(b.shape[1])
            self._aa = a.new_zeros(a.shape[1], a.shape[1])
            self._ab, self._bb = a.new_zeros(a.shape[1], b.shape[1]), b.new_zeros(())
        elif (a.shape[1], b.shape[1]) != tuple(self._ab.shape):
            raise ShapeError(
                f"least squares has rows of widths {tuple(self._ab.shape)} so far, "
                f"these have {(a.shape[1], b.shape[1])}"
            )
        mean_a, mean_b = a.mean(0), b.mean(0)
        a, b = a - mean_a, b - mean_b
        shift_a, shift_b = mean_a - self._mean_a, mean_b - self._mean_b
        total = self.rows + count
        weight = self.rows * count / total
        self._aa += a.T @ a + weight * torch.outer(shift_a, shift_a)
        self._ab += a.T @ b + weight * torch.outer(shift_a, shift_b)
        self._bb += b.square().sum() + weight * shift_b.square().sum()
        self._mean_a += shift_a * (count / total)
        self._mean_b += shift_b * (count / total)
        self.rows = total

    def solve(self) -> LinearMap:
        """The map that explains most of the receiver's variance, in float32.

        Raises:
            ConversionError: no rows were added, or they hold NaN or infinite values.
        """
        return self._solution()[0]

    def _solution(self) -> tuple[LinearMap, float, float]:
        """The map, the unexplained sum of squares and the sum of squares about the mean."""
        if not self.rows:
            raise ConversionError("least squares has no rows to fit: add activations first")
        finite = torch.isfinite(self._aa).all() and torch.isfinite(self._ab).all()
        if not (finite and torch.isfinite(self._bb)):
            raise ConversionError(
                f"least squares over {self.rows} rows met NaN or infinite activations: check the "
                "sender for divergence before fitting a stitch"
            )
        weight = self._weight()
        explained = 2 * (weight * self._ab).sum() - (weight * (self._aa @ weight)).sum()
        total = float(self._bb)
        unexplained = max(0.0, total - float(explained))
        bias = self._mean_b - self._mean_a @ weight
        residual = unexplained / total if total > 0 else 0.0
        return LinearMap(weight.T.float(), bias.float(), residual), unexplained, total

    def _weight(self) -> Tensor:
        """Solution of the normal equations, (D1, D2)."""
        level = self._aa.diagonal().mean()
        if not level > 0:
            return torch.zeros_like(self._ab)
        if self.ridge:
            ridged = self._aa.clone()
            ridged.diagonal().add_(self.ridge * level)
            factor, failed = torch.linalg.cholesky_ex(ridged)
            if not failed:
                return torch.cholesky_solve(self._ab, factor)
        # No ridge, or one so small that rounding makes the matrix indefinite.
        values, vectors = torch.linalg.eigh(self._aa)
        kept = values > values[-1] * len(values) * torch.finfo(values.dtype).eps
        inverse = torch.where(kept, 1 / (values + self.ridge * level), 0.0)
        weight: Tensor = vectors @ (inverse[:, None] * (vectors.T @ self._ab))
        return weight


def least_squares(a: Tensor, b: Tensor, ridge: float = 1e-6) -> LinearMap:
    """The linear map with intercept from rows a (R, D1) to rows b (R, D2), by least squares.

    Solved in float64, returned in float32. See `LeastSquares` for the ridge and for data that come
    in batches.

    Raises:
        ShapeError: not two-dimensional, or the rows differ in number.
        ConversionError: no rows, or NaN or infinite values.

    Source: Pan et al. 2023, SN-Net, section 3 (M = A⁺B, here with a column of ones in A).
    """
    fit = LeastSquares(ridge)
    fit.add(a, b)
    return fit.solve()


def rows(features: Tensor, kind: Kind | None = None) -> Tensor:
    """One row a position: (N,C,H,W) → (N·H·W, C), (N,T,D) → (N·T, D), (N,D) as it is.

    Args:
        features: a batch of features.
        kind: the boundary's kind, checked against the shape; told from the shape when None.

    Raises:
        ShapeError: the shape is none of these, or not of this kind.
    """
    dimensions = {"map": 4, "tokens": 3, "vector": 2}
    if features.ndim not in dimensions.values() or (
        kind is not None and dimensions.get(kind) != features.ndim
    ):
        raise ShapeError(
            f"features {tuple(features.shape)} of kind {kind or 'unknown'}: rows are taken from "
            "(N,C,H,W) maps, (N,T,D) tokens or (N,D) vectors"
        )
    if features.ndim == 4:
        return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])
    return features.reshape(-1, features.shape[-1])


class Stitch(nn.Module):
    """A small linear map from one boundary to another, made by `make_stitch`."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.inlet, self.outlet = inlet, outlet

    def pairs(self, sender: Tensor, receiver: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        """Each linear layer with the rows that it reads and the rows that it should give."""
        raise NotImplementedError

    def linear_map(self) -> LinearMap | None:
        """The stitch as one map applied at every position, which folds; None if it is not that."""
        return None


class _PointwiseStitch(Stitch):
    """Tokens or vectors through one linear layer, the mean over positions first where needed."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__(inlet, outlet)
        self.mean = outlet.kind == "vector" and inlet.kind != "vector"
        self.linear = nn.Linear(inlet.width, outlet.width)

    def _read(self, features: Tensor) -> Tensor:
        if not self.mean:
            return features
        return features.mean((2, 3) if features.ndim == 4 else 1)

    def forward(self, features: Tensor) -> Tensor:
        mapped: Tensor = self.linear(self._read(features))
        return mapped

    def pairs(self, sender: Tensor, receiver: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        yield self.linear, rows(self._read(sender)), rows(receiver)

    def linear_map(self) -> LinearMap | None:
        if self.mean:
            return None
        return LinearMap(self.linear.weight.detach().clone(), self.linear.bias.detach().clone())


class _MapStitch(Stitch):
    """Map to map: 1x1, strided with kernel = stride, or 1x1 and nearest upsampling.

    Nearest upsampling and a 1x1 convolution commute, so the convolution runs first, at the smaller
    size: the same function as upsampling first, for a fraction of the multiply-adds.
    """

    def __init__(self, inlet: Boundary, outlet: Boundary, down: tuple[int, int]) -> None:
        super().__init__(inlet, outlet)
        self.down = down
        self.enlarges = down == (1, 1) and inlet.shape[1:] != outlet.shape[1:]
        self.conv = nn.Conv2d(inlet.width, outlet.width, kernel_size=down, stride=down)

    def _enlarged(self, features: Tensor) -> Tensor:
        if not self.enlarges:
            return features
        return F.interpolate(features, size=self.outlet.shape[1:], mode="nearest")

    def forward(self, features: Tensor) -> Tensor:
        return self._enlarged(self.conv(features))

    def pairs(self, sender: Tensor, receiver: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        patches = F.unfold(sender, self.down, stride=self.down) if self.down != (1, 1) else None
        read = rows(self._enlarged(sender)) if patches is None else rows(patches.transpose(1, 2))
        yield self.conv, read, rows(receiver)

    def linear_map(self) -> LinearMap | None:
        if self.down != (1, 1) or self.enlarges:
            return None
        weight = self.conv.weight.detach().flatten(1).clone()
        bias = self.conv.bias
        assert bias is not None
        return LinearMap(weight, bias.detach().clone())


class _MapTokensStitch(Stitch):
    """Between a map and tokens, row by row of the map; a class token stands first.

    The class token is read from the map's mean; on the way to a map it is left out.
    """

    def __init__(self, inlet: Boundary, outlet: Boundary, class_token: bool) -> None:
        super().__init__(inlet, outlet)
        self.linear = nn.Linear(inlet.width, outlet.width)
        needed = class_token and outlet.kind == "tokens"
        self.class_linear = nn.Linear(inlet.width, outlet.width) if needed else None
        self.skipped = int(class_token)

    def forward(self, features: Tensor) -> Tensor:
        if self.outlet.kind == "map":
            tokens: Tensor = self.linear(features[:, self.skipped :])
            return tokens.transpose(1, 2).reshape(-1, *self.outlet.shape)
        tokens = self.linear(features.flatten(2).transpose(1, 2))
        if self.class_linear is None:
            return tokens
        return torch.cat([self.class_linear(features.mean((2, 3)))[:, None], tokens], dim=1)

    def pairs(self, sender: Tensor, receiver: Tensor) -> Iterator[tuple[nn.Module, Tensor, Tensor]]:
        if self.outlet.kind == "map":
            yield self.linear, rows(sender[:, self.skipped :]), rows(receiver)
            return
        yield self.linear, rows(sender), rows(receiver[:, self.skipped :])
        if self.class_linear is not None:
            yield self.class_linear, sender.mean((2, 3)), receiver[:, 0]


def make_stitch(inlet: Boundary, outlet: Boundary) -> Stitch:
    """The stitch between two boundaries; fit it with `fit_stitch` or train it.

    Equal positions: linear or 1x1. Maps that differ by an integer factor: strided convolution with
    kernel = stride, or 1x1 with nearest upsampling. Map ↔ tokens of H·W positions, or of H·W + 1
    with a class token first. Map or tokens → vector: mean over positions, then linear.

    Raises:
        ShapeError: no stitch joins the two.

    Source: Pan et al. 2023 (1x1); Hernandez et al. 2023, arXiv:2303.11277 (strided, upsampling);
    map ↔ tokens is ours.
    """
    refused = ShapeError(
        f"no stitch joins {inlet} to {outlet}: positions must be equal in number, maps differ by "
        "an integer factor in one direction, or the outlet be a vector. Choose another pair of "
        "boundaries"
    )
    joined = (inlet.kind, outlet.kind)
    if "ids" in joined:
        raise refused
    if outlet.kind == "vector" or (joined == ("tokens",) * 2 and inlet.shape[0] == outlet.shape[0]):
        return _PointwiseStitch(inlet, outlet)
    if joined == ("map", "map"):
        (_, height, width), (_, new_height, new_width) = inlet.shape, outlet.shape
        if height % new_height == 0 and width % new_width == 0:
            return _MapStitch(inlet, outlet, down=(height // new_height, width // new_width))
        if new_height % height == 0 and new_width % width == 0:
            return _MapStitch(inlet, outlet, down=(1, 1))
    if set(joined) == {"map", "tokens"}:
        grid, tokens = (inlet, outlet) if inlet.kind == "map" else (outlet, inlet)
        surplus = tokens.shape[0] - grid.shape[1] * grid.shape[2]
        if surplus in (0, 1):
            return _MapTokensStitch(inlet, outlet, class_token=surplus == 1)
    raise refused


def fit_stitch(
    stitch: Stitch, sender_features: Tensor, receiver_features: Tensor, ridge: float = 1e-6
) -> float:
    """Set a stitch's weights, in place, to the least-squares solution with intercept.

    Args:
        stitch: made by `make_stitch`.
        sender_features: what the stitch reads, shape (N, *inlet).
        receiver_features: what it should give for the same examples, shape (N, *outlet).
        ridge: as in `LeastSquares`.

    Returns:
        Share of the receiver's variance that stays unexplained. The variance is about the mean
        of each linear layer's own rows: the class token counts apart from the others.

    Raises:
        ShapeError: the features are not of the stitch's boundaries or of the same examples.
        ConversionError: NaN or infinite features.
    """
    halves = torch.split(sender_features, _CHUNK), torch.split(receiver_features, _CHUNK)
    if len(sender_features) != len(receiver_features):
        raise ShapeError(
            f"a stitch is fitted to the same examples: {len(sender_features)} of the sender, "
            f"{len(receiver_features)} of the receiver"
        )
    return fit_stitch_batches(stitch, zip(*halves, strict=True), ridge)


def fit_stitch_batches(
    stitch: Stitch, batches: Iterable[tuple[Tensor, ...]], ridge: float = 1e-6
) -> float:
    """`fit_stitch` from (sender, receiver) batches, of which one is held at a time."""
    fits: dict[nn.Module, LeastSquares] = {}
    for sender, receiver in batches:
        shapes = (tuple(sender.shape[1:]), tuple(receiver.shape[1:]))
        if shapes != (stitch.inlet.shape, stitch.outlet.shape) or len(sender) != len(receiver):
            raise ShapeError(
                f"a stitch from {stitch.inlet} to {stitch.outlet} cannot be fitted to features "
                f"{tuple(sender.shape)} and {tuple(receiver.shape)}"
            )
        with torch.no_grad():
            for layer, a, b in stitch.pairs(sender, receiver):
                fits.setdefault(layer, LeastSquares(ridge)).add(a, b)
    if not fits:
        raise ConversionError("no features to fit a stitch to")
    unexplained = total = 0.0
    for layer, fit in fits.items():
        solution, missed, variance = fit._solution()
        _set(layer, solution.weight, solution.bias)
        unexplained, total = unexplained + missed, total + variance
    return unexplained / total if total > 0 else 0.0


def _set(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        state = layer.state_dict()
        state["weight"].copy_(weight.view_as(state["weight"]))
        state["bias"].copy_(bias)


def fold_after(last: nn.Linear | nn.Conv2d, linear_map: LinearMap) -> tuple[Tensor, Tensor]:
    """Weight and bias of `last` followed by the map: exact for any kernel, stride and padding.

    A layer without bias gets one. Where the map changes the width, the layer itself must be made
    anew: `with_weights`.

    Raises:
        ShapeError: another layer type, a grouped convolution, or widths that do not fit.
    """
    _check_foldable(last)
    if linear_map.weight.shape[1] != last.weight.shape[0]:
        raise ShapeError(
            f"a map of weight {tuple(linear_map.weight.shape)} cannot follow a layer of weight "
            f"{tuple(last.weight.shape)}: it reads {linear_map.weight.shape[1]} features, the "
            f"layer gives {last.weight.shape[0]}"
        )
    outer, shift, weight, bias = _in_float64(linear_map, last)
    folded = torch.tensordot(outer, weight, dims=1)
    return folded.to(last.weight.dtype), (outer @ bias + shift).to(last.weight.dtype)


def fold_before(linear_map: LinearMap, following: nn.Linear | nn.Conv2d) -> tuple[Tensor, Tensor]:
    """Weight and bias of the map followed by `following`, exact for linear and unpadded layers.

    Raises:
        ShapeError: another layer type, a grouped or zero-padded convolution, or widths that do not
            fit. Zero padding is put around what the convolution reads, after the map; folded, it
            would be put before, and the map's bias would be missing at the border.
    """
    _check_foldable(following)
    if isinstance(following, nn.Conv2d) and _pads_with_zeros(following):
        raise ShapeError(
            f"a linear map does not fold into the zero-padded convolution after it ({following}): "
            "its bias would be missing at the border. Fold it into the layer before, or keep it"
        )
    if linear_map.weight.shape[0] != following.weight.shape[1]:
        raise ShapeError(
            f"a map of weight {tuple(linear_map.weight.shape)} cannot precede a layer of weight "
            f"{tuple(following.weight.shape)}: it gives {linear_map.weight.shape[0]} features, "
            f"the layer reads {following.weight.shape[1]}"
        )
    inner, shift, weight, bias = _in_float64(linear_map, following)
    folded = torch.tensordot(weight, inner, dims=([1], [0])).movedim(-1, 1)
    moved = torch.tensordot(weight, shift, dims=([1], [0]))
    bias = bias + (moved if moved.ndim == 1 else moved.flatten(1).sum(1))
    return folded.contiguous().to(following.weight.dtype), bias.to(following.weight.dtype)


def with_weights(
    layer: nn.Linear | nn.Conv2d, weight: Tensor, bias: Tensor
) -> nn.Linear | nn.Conv2d:
    """A layer of the same kind, stride and padding with these weights; widths are theirs."""
    _check_foldable(layer)
    fresh = copy.deepcopy(layer)
    fresh.weight, fresh.bias = nn.Parameter(weight.clone()), nn.Parameter(bias.clone())
    if isinstance(fresh, nn.Conv2d):
        fresh.out_channels, fresh.in_channels = weight.shape[:2]
    else:
        fresh.out_features, fresh.in_features = weight.shape
    return fresh


def _in_float64(
    linear_map: LinearMap, layer: nn.Linear | nn.Conv2d
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    weight = layer.weight.detach().double()
    bias = weight.new_zeros(len(weight)) if layer.bias is None else layer.bias.detach().double()
    return linear_map.weight.to(weight), linear_map.bias.to(weight), weight, bias


def _pads_with_zeros(conv: nn.Conv2d) -> bool:
    if conv.padding_mode != "zeros" or conv.padding == "valid":
        return False
    if conv.padding == "same":
        return max(conv.kernel_size) > 1
    return any(conv.padding)


def _check_foldable(layer: nn.Module) -> None:
    if not isinstance(layer, nn.Linear | nn.Conv2d):
        raise ShapeError(
            f"a linear map folds into nn.Linear or nn.Conv2d, not {type(layer).__name__}: keep it "
            "as a layer of its own"
        )
    if isinstance(layer, nn.Conv2d) and layer.groups != 1:
        raise ShapeError(
            f"a linear map mixes channels, which a convolution of {layer.groups} groups cannot "
            f"({layer}): keep it as a 1x1 convolution of its own, and count it"
        )

"""Stitches: small linear maps from one boundary to another, fitted by least squares."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.conversion.least_squares import LeastSquares, LinearMap
from nas_theseus.errors import ConversionError, ShapeError
from nas_theseus.values.architecture import Boundary

Kind = Literal["map", "tokens", "vector", "ids"]

# Number of examples that `fit_stitch` converts to float64 at a time.
_CHUNK = 256


def rows(features: Tensor, kind: Kind | None = None) -> Tensor:
    """One row per position: (N,C,H,W) → (N·H·W, C), (N,T,D) → (N·T, D), (N,D) unchanged.

    Args:
        features: a batch of features.
        kind: the boundary's kind, checked against the shape. Default: derived from the shape.

    Raises:
        ShapeError: the shape is none of these, or not of this kind.
    """
    dimensions = {"map": 4, "tokens": 3, "vector": 2}
    if features.ndim not in dimensions.values() or (
        kind is not None and dimensions.get(kind) != features.ndim
    ):
        raise ShapeError(
            f"features {tuple(features.shape)} of kind {kind or 'unknown'}: rows need "
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
        """Each linear layer with its input rows and the expected output rows."""
        raise NotImplementedError

    def linear_map(self) -> LinearMap | None:
        """The stitch as one foldable map applied at every position; None if it is not one."""
        return None


class _PointwiseStitch(Stitch):
    """One linear layer for tokens or vectors, after a mean over positions if needed."""

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
    size. The result is the same with a fraction of the multiply-adds.
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
    """Between a map and tokens, row by row of the map, with a class token first if there is one.

    A class token is computed from the map's mean; from tokens to a map it is ignored.
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
        ShapeError: the two boundaries cannot be stitched.

    Source: Pan et al. 2023 (1x1); Hernandez et al. 2023, arXiv:2303.11277 (strided, upsampling);
    map ↔ tokens is ours.
    """
    refused = ShapeError(
        f"no stitch joins {inlet} to {outlet}: their numbers of positions must be equal, their map "
        "sizes must differ by an integer factor in one direction, or the outlet must be a vector. "
        "Choose another pair of boundaries"
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
        sender_features: inputs of the stitch, shape (N, *inlet).
        receiver_features: expected outputs for the same examples, shape (N, *outlet).
        ridge: as in `LeastSquares`.

    Returns:
        Share of the receiver's variance that stays unexplained. The variance is about the mean
        of each linear layer's own rows: the class token counts separately from the others.

    Raises:
        ShapeError: the features do not fit the stitch's boundaries, or their numbers differ.
        ConversionError: features are NaN or infinite.
    """
    halves = torch.split(sender_features, _CHUNK), torch.split(receiver_features, _CHUNK)
    if len(sender_features) != len(receiver_features):
        raise ShapeError(
            f"a stitch needs the same examples of both sides, got {len(sender_features)} of the "
            f"sender and {len(receiver_features)} of the receiver"
        )
    return fit_stitch_batches(stitch, zip(*halves, strict=True), ridge)


def fit_stitch_batches(
    stitch: Stitch, batches: Iterable[tuple[Tensor, ...]], ridge: float = 1e-6
) -> float:
    """`fit_stitch` from (sender, receiver) batches, with one in memory at a time."""
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
        solution, missed, variance = fit.solution()
        _set(layer, solution.weight, solution.bias)
        unexplained, total = unexplained + missed, total + variance
    return unexplained / total if total > 0 else 0.0


def _set(layer: nn.Module, weight: Tensor, bias: Tensor) -> None:
    with torch.no_grad():
        state = layer.state_dict()
        state["weight"].copy_(weight.view_as(state["weight"]))
        state["bias"].copy_(bias)

"""Blocks that do little: identity, pooling, and a single linear map."""

from __future__ import annotations

from torch import Tensor, nn

from nas_theseus.blocks.family import downsampling
from nas_theseus.errors import ShapeError
from nas_theseus.guide.sublayers import State
from nas_theseus.values.architecture import Boundary


class IdentityBlock(nn.Module):
    """Removes a span whose inlet and outlet are equal."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        if inlet != outlet:
            raise ShapeError("identity needs equal shapes; use Linear() or Pool() here")

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        del state
        return x

    def state_elements(self, tokens: int) -> int:
        """Nothing to remember."""
        del tokens
        return 0


class PoolBlock(nn.Module):
    """Average pooling between maps of equal width."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        stride = downsampling(inlet, outlet)
        if stride == 1 or inlet.width != outlet.width:
            raise ShapeError("pooling needs a smaller map of the same width; use Linear() here")
        self.pool = nn.AvgPool2d(stride)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.pool(x)
        return out


class LinearBlock(nn.Module):
    """A linear map of channels or features, after average pooling if the map shrinks."""

    def __init__(self, inlet: Boundary, outlet: Boundary) -> None:
        super().__init__()
        self.pool: nn.Module = nn.Identity()
        if inlet.kind == "map" and outlet.kind == "map":
            stride = downsampling(inlet, outlet)
            self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
            self.last: nn.Module = nn.Conv2d(inlet.width, outlet.width, 1)
        elif inlet.kind == outlet.kind != "ids" and inlet.shape[:-1] == outlet.shape[:-1]:
            self.last = nn.Linear(inlet.width, outlet.width)
        else:
            raise ShapeError(f"no linear map per position leads from {inlet} to {outlet}")

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        del state
        out: Tensor = self.last(self.pool(x))
        return out

    def state_elements(self, tokens: int) -> int:
        """A map of each token remembers nothing."""
        del tokens
        return 0

"""Convolutional blocks; each ends in one linear map `last`, into which a stitch is folded."""

from __future__ import annotations

from torch import Tensor, nn

from nas_theseus.blocks.family import downsampling, scaled_width
from nas_theseus.values.architecture import Boundary


class ConvBlock(nn.Module):
    """Hidden layers, then `last`, with a skip connection if inlet and outlet are equal."""

    def __init__(self, inlet: Boundary, outlet: Boundary, hidden: nn.Module, last: nn.Conv2d):
        super().__init__()
        self.hidden = hidden
        self.last = last
        self.skips = inlet == outlet

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.hidden(x))
        return out + x if self.skips else out


def _conv_norm_relu(
    inlet: int, outlet: int, kernel: int, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    conv = nn.Conv2d(inlet, outlet, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(outlet), nn.ReLU()]


class BasicResidual(ConvBlock):
    """Two 3×3 convolutions, hidden width `width` times the outlet's. Source: He et al. 2016."""

    def __init__(self, inlet: Boundary, outlet: Boundary, width: float = 1.0) -> None:
        stride = downsampling(inlet, outlet)
        hidden = scaled_width(outlet.width, width)
        super().__init__(
            inlet,
            outlet,
            nn.Sequential(*_conv_norm_relu(inlet.width, hidden, 3, stride)),
            nn.Conv2d(hidden, outlet.width, 3, padding=1),
        )


class BottleneckResidual(ConvBlock):
    """1×1 down to `ratio` times the outlet's width, 3×3, 1×1 up. Source: He et al. 2016."""

    def __init__(self, inlet: Boundary, outlet: Boundary, ratio: float = 0.5) -> None:
        stride = downsampling(inlet, outlet)
        hidden = scaled_width(outlet.width, ratio)
        super().__init__(
            inlet,
            outlet,
            nn.Sequential(
                *_conv_norm_relu(inlet.width, hidden, 1),
                *_conv_norm_relu(hidden, hidden, 3, stride),
            ),
            nn.Conv2d(hidden, outlet.width, 1),
        )


class DepthwiseSeparable(ConvBlock):
    """1×1 up to `expand` times the inlet's width, depthwise k×k, 1×1. Source: Sandler 2018."""

    def __init__(
        self, inlet: Boundary, outlet: Boundary, expand: float = 1.0, kernel: int = 3
    ) -> None:
        stride = downsampling(inlet, outlet)
        hidden = scaled_width(inlet.width, expand)
        up = [] if hidden == inlet.width else _conv_norm_relu(inlet.width, hidden, 1)
        super().__init__(
            inlet,
            outlet,
            nn.Sequential(*up, *_conv_norm_relu(hidden, hidden, kernel, stride, groups=hidden)),
            nn.Conv2d(hidden, outlet.width, 1),
        )


class PointwiseNet(ConvBlock):
    """Average pooling if the map shrinks, then two 1×1 convolutions: no spatial mixing."""

    def __init__(self, inlet: Boundary, outlet: Boundary, expand: float = 1.0) -> None:
        stride = downsampling(inlet, outlet)
        hidden = scaled_width(outlet.width, expand)
        pool = [nn.AvgPool2d(stride)] if stride > 1 else []
        super().__init__(
            inlet,
            outlet,
            nn.Sequential(*pool, *_conv_norm_relu(inlet.width, hidden, 1)),
            nn.Conv2d(hidden, outlet.width, 1),
        )

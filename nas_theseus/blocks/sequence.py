"""Base of blocks over tokens, and blocks that mix positions by fixed weights or not at all."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.blocks.family import scaled_width
from nas_theseus.blocks.mixers import continued, length, remembered
from nas_theseus.blocks.units import norm_like, units_like
from nas_theseus.errors import CostError, ShapeError
from nas_theseus.guide.sublayers import State
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.style import PLAIN, Style


def token_shape(inlet: Boundary, outlet: Boundary) -> tuple[int, int]:
    """Number of tokens T and inlet width D of a block over tokens; only the width can change.

    Raises:
        ShapeError: a side is not (T,D), or the numbers of tokens differ.
    """
    if inlet.kind != "tokens" or outlet.kind != "tokens":
        raise ShapeError(f"needs (T,D) on both sides, got {inlet} and {outlet}")
    if inlet.shape[0] != outlet.shape[0]:
        raise ShapeError(
            f"needs equal numbers of tokens, got {inlet.shape[0]} and {outlet.shape[0]}; "
            "cut elsewhere"
        )
    return inlet.shape[0], inlet.shape[1]


def cannot_generate(block: str, remedy: str) -> CostError:
    """The error for a block that was asked to continue a text, or what it remembers of one."""
    return CostError(
        f"block {block!r} cannot generate text token by token: it reads later tokens, or is made "
        f"for one number of tokens; use {remedy}"
    )


class SequenceBlock(nn.Module):
    """A mixer over tokens (N,T,D) after a layer norm, then an MLP, in pre-norm residual form.

    With h = x + project(mixer(norm(x))) the output is h + last(gelu(up(norm(h)))); without the MLP
    it is x + last(mixer(norm(x))). If the widths differ, there is no skip connection around `last`.
    Norms and hidden units are of the guide's style: RMS norms and gated units where it has them.

    Args:
        mixer: maps (N, T, D) to (N, T, mixed).
        mixed: width of the mixer's output.
        mlp: hidden width of the MLP as a multiple of the inlet's; 0 for none.
        style: the guide's, given to every factory with a true attribute `styled`.

    With a state, the block continues a text (`guide.sublayers`); a mixer that remembers tokens
    takes the state and has a method `state_elements`.

    Raises:
        ShapeError: as `token_shape`.

    Source: Xiong et al. 2020, arXiv:2002.04745 (pre-norm).
    """

    styled: ClassVar[bool] = True

    def __init__(
        self,
        inlet: Boundary,
        outlet: Boundary,
        mixer: nn.Module,
        mixed: int,
        mlp: float = 0.0,
        style: Style = PLAIN,
    ) -> None:
        super().__init__()
        _, width = token_shape(inlet, outlet)
        self.norm = norm_like(style, width)
        self.mixer = mixer
        self.project: nn.Module | None = None
        if mlp:
            hidden = scaled_width(width, mlp)
            self.project = nn.Linear(mixed, width)
            units = units_like(style, width, hidden)
            self.mlp = nn.Sequential(norm_like(style, width), *units)
            mixed = hidden
        self.last = nn.Linear(mixed, outlet.width)
        self.skips = inlet == outlet

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        features = continued(self.mixer, self.norm(x), state)
        if self.project is not None:
            x = x + self.project(features)
            features = self.mlp(x)
        out: Tensor = self.last(features)
        return out + x if self.skips else out

    def state_elements(self, tokens: int) -> int:
        """Number of elements to remember of one sequence after so many tokens.

        Raises:
            CostError: the block cannot generate text.
        """
        return remembered(self.mixer, tokens)


class ChannelMLPBlock(SequenceBlock):
    """The same MLP at every token; positions do not mix.

    Args:
        hidden: hidden width as a multiple of the inlet's.
    """

    def __init__(
        self, inlet: Boundary, outlet: Boundary, hidden: float = 1.0, style: Style = PLAIN
    ) -> None:
        _, width = token_shape(inlet, outlet)
        inner = scaled_width(width, hidden)
        mixer = nn.Sequential(*units_like(style, width, inner))
        super().__init__(inlet, outlet, mixer, inner, style=style)


class CausalTokenMLPBlock(SequenceBlock):
    """Each token becomes a learned sum of itself and the tokens before it, then a channel MLP.

    The mixer is the lower triangle of one T×T matrix, shared by all channels. Its costs are counted
    in full, as for causal attention: T² parameters and T²·D products.
    Source: MLP-Mixer, Tolstikhin et al. 2021, with one triangular layer over positions (ours).

    Args:
        hidden: hidden width of the channel MLP as a multiple of the inlet's.
    """

    def __init__(
        self, inlet: Boundary, outlet: Boundary, hidden: float = 1.0, style: Style = PLAIN
    ) -> None:
        tokens, width = token_shape(inlet, outlet)
        super().__init__(inlet, outlet, TriangularMixer(tokens), width, hidden, style)


class CausalConvBlock(SequenceBlock):
    """Causal depthwise convolution over positions, then an MLP over channels.

    Source: ConvNeXt's block, Liu et al. 2022, arXiv:2201.03545, in one causal dimension.

    Args:
        kernel: number of tokens that a token reads, including itself as the last.
        expand: hidden width of the MLP as a multiple of the inlet's.
    """

    def __init__(
        self,
        inlet: Boundary,
        outlet: Boundary,
        kernel: int = 4,
        expand: float = 2.0,
        style: Style = PLAIN,
    ) -> None:
        _, width = token_shape(inlet, outlet)
        hidden = scaled_width(width, expand)
        mixer = nn.Sequential(
            CausalDepthwiseConv(width, kernel), nn.Linear(width, hidden), nn.GELU()
        )
        super().__init__(inlet, outlet, mixer, hidden, style=style)


class TriangularMixer(nn.Module):
    """A linear map over positions, (N, T, D) to (N, T, D), that reads no later positions."""

    def __init__(self, tokens: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(tokens, tokens))
        self.bias = nn.Parameter(torch.zeros(tokens, 1))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw each row as nn.Linear does for the number of inputs that the row reads."""
        reads = torch.arange(1, len(self.weight) + 1, device=self.weight.device)
        with torch.no_grad():
            nn.init.uniform_(self.weight, -1, 1).div_(reads.sqrt()[:, None])
            nn.init.zeros_(self.bias)

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        if state is not None:
            self.state_elements(0)
        tokens = length(x, len(self.weight))
        if tokens == len(self.weight):
            return self.weight.tril() @ x + self.bias
        return self.weight[:tokens, :tokens].tril() @ x + self.bias[:tokens]

    def state_elements(self, tokens: int) -> int:
        """Not known: a text longer than the matrix cannot be continued.

        Raises:
            CostError: always.
        """
        del tokens
        raise cannot_generate("causal_token_mlp", "CausalConv(), MinimalRNN() or GRU()")


class CausalDepthwiseConv(nn.Module):
    """One filter per channel over a token and the `kernel` − 1 before it; (N, T, D) to (N, T, D).

    Raises:
        ShapeError: the kernel is below 1.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        if kernel < 1:
            raise ShapeError(f"needs a kernel of at least 1 token, got {kernel}")
        self.width, self.before = width, kernel - 1
        self.conv = nn.Conv1d(width, width, kernel, groups=width)

    def forward(self, x: Tensor, state: State | None = None) -> Tensor:
        if state:
            padded = torch.cat([state["recent"], x], dim=1).transpose(1, 2)
        else:
            padded = F.pad(x.transpose(1, 2), (self.before, 0))
        if state is not None:
            state["recent"] = padded[:, :, padded.shape[2] - self.before :].transpose(1, 2)
        out: Tensor = self.conv(padded).transpose(1, 2)
        return out

    def state_elements(self, tokens: int) -> int:
        """The tokens that the filter still reads, zero before the first."""
        del tokens
        return self.width * self.before

"""Options that all transforms share."""

from __future__ import annotations

from typing import TypedDict


class GrowthOptions(TypedDict, total=False):
    """How a network grows, whichever transform does it.

    Attributes:
        scale: factor on the standard deviation of free weights; large ones destabilise training.
        noise: standard deviation of noise added to new weights, as a share of the kernel's; the
            function is then preserved approximately. Default: 0.
        seed: of all random draws. Default: 0.
        in_place: change the model itself instead of a copy. Default: False.
    """

    scale: float | None
    noise: float
    seed: int
    in_place: bool

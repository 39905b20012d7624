"""Einsum counts against torch's counter of what it really runs."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_theseus.costs import count_macs
from nas_theseus.costs.contraction import einsum_macs
from nas_theseus.errors import CostError
from nas_theseus.values.architecture import Boundary

CASES = [
    ("ij,jk->ik", [(3, 4), (4, 5)]),
    ("bij,bjk->bik", [(2, 3, 4), (2, 4, 5)]),
    ("bhid, bhjd -> bhij", [(2, 3, 4, 5), (2, 3, 6, 5)]),
    ("...i,ij->...j", [(2, 3, 4), (4, 5)]),
    ("...ij,...jk", [(7, 2, 3, 4), (2, 4, 5)]),
    ("nchw,vc->nvhw", [(1, 4, 3, 5), (6, 4)]),
    ("ij,jk,kl->il", [(3, 4), (4, 5), (5, 6)]),
    ("ij,jk", [(3, 4), (4, 5)]),
    ("i,i->", [(4,), (4,)]),
    ("ijm,jk->ik", [(3, 4, 7), (4, 5)]),
    ("abc,abd->acd", [(2, 3, 4), (2, 3, 5)]),
    ("ij,jk->ik", [(3, 1), (4, 5)]),
    ("ij->ji", [(3, 4)]),
    ("bij->b", [(2, 3, 4)]),
    ("ij,ij->ij", [(3, 4), (3, 4)]),
    ("i,j->ij", [(3,), (4,)]),
]


@pytest.mark.parametrize("equation,shapes", CASES)
def test_einsum_counts_what_torch_runs(equation: str, shapes: list[tuple[int, ...]]) -> None:
    operands = [torch.ones(shape) for shape in shapes]
    with (
        FlopCounterMode(display=False) as counter,
        torch.backends.opt_einsum.flags(enabled=False),
    ):
        torch.einsum(equation, *operands)
    assert einsum_macs(equation, shapes) == counter.get_total_flops() // 2


def test_path_orders_the_pairs() -> None:
    shapes = [(2, 30), (30, 40), (40, 5)]
    assert einsum_macs("ij,jk,kl->il", shapes) == 2 * 30 * 40 + 2 * 40 * 5
    assert einsum_macs("ij,jk,kl->il", shapes, [1, 2, 0, 1]) == 30 * 40 * 5 + 2 * 30 * 5


def test_einsum_in_a_module() -> None:
    class Mix(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("btd,bsd,de->bte", x, x, torch.ones(6, 2))

    class MixLast(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.einsum("btd,de->bte", x, torch.ones(6, 2))

    assert count_macs(MixLast(), Boundary((5, 6))) == 5 * 6 * 2
    with (
        FlopCounterMode(display=False) as counter,
        torch.no_grad(),
    ):
        Mix()(torch.ones(1, 5, 6))
    assert count_macs(Mix(), Boundary((5, 6))) == counter.get_total_flops() // 2


def test_equation_that_does_not_fit_is_refused() -> None:
    with pytest.raises(CostError, match="rank 3"):
        einsum_macs("ij,jk->ik", [(2, 3, 4), (4, 5)])

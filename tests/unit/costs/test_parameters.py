"""Parameters: shared ones once."""

from __future__ import annotations

from torch import nn

from nas_theseus.costs import cost_of, count_params
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.outcomes import Cost


def test_shared_parameters_count_once() -> None:
    table, head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
    assert count_params(table, head) == 88
    head.weight = table.weight
    assert count_params(table, head) == 44
    assert count_params(nn.Sequential(table, head)) == 44
    assert count_params() == count_params(nn.ReLU()) == 0


def test_buffers_are_not_parameters() -> None:
    assert count_params(nn.BatchNorm2d(6)) == 12


def test_cost_of_counts_both() -> None:
    assert cost_of(nn.Linear(4, 3), Boundary((5, 4))) == Cost({"macs": 60, "params": 15})

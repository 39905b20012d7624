"""The package's costs: what each file of `costs/measures` says and does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas_theseus.costs import count_macs, count_params, measure_peak_memory
from nas_theseus.space.objectives import measure_mistakes
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.registers import COSTS

INLET = Boundary((5, 4))
CPU = torch.device("cpu")


@pytest.mark.parametrize("name", list(COSTS))
def test_each_is_what_a_cost_must_be(name: str) -> None:
    measure = COSTS[name]
    assert list(measure_mistakes(measure)) == []
    assert (measure.name, measure.direction) == (name, "minimize")
    assert measure.unit


def test_they_call_what_counts_and_measures() -> None:
    module = nn.Linear(4, 3)
    assert COSTS["macs"].count(module, INLET) == count_macs(module, INLET) == 60
    assert COSTS["params"].count(module, INLET) == count_params(module) == 15
    bytes_ = measure_peak_memory(module, INLET, device=CPU)
    assert COSTS["peak_memory_bytes"].measure(module, INLET, CPU, None) == bytes_
    latency = COSTS["latency_ms"].measure(module, INLET, CPU, 1)
    assert latency.keys() == {"latency_ms", "latency_ms_p10", "latency_ms_p90"}
    assert 0 < latency["latency_ms_p10"] <= latency["latency_ms"] <= latency["latency_ms_p90"]


def test_tied_parameters_are_shared() -> None:
    table, head = nn.Embedding(11, 4), nn.Linear(4, 11, bias=False)
    assert COSTS["params"].shared(head, [table]) == 0
    head.weight = table.weight
    assert COSTS["params"].shared(head, [table]) == 44
    assert COSTS["params"].shared(head, []) == 0

"""A search space as a graph: the same architectures and costs as the space and its cost table."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Identity, Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.space_graph import additive_space, log_unit
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Span


def conv(inlet: int, outlet: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.ReLU())


HEAD = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))


@pytest.mark.parametrize("widths", [(1.0,), (0.5, 1.0)])
@pytest.mark.parametrize("max_span", [1, 2])
def test_the_graph_has_the_space_s_architectures_and_their_costs(
    widths: tuple[float, ...], max_span: int
) -> None:
    chain = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), HEAD)
    space = SearchSpace(
        guide=cut(chain, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Depthwise(expand=choice(1, 2)), Linear(), Identity()],
        max_span=max_span,
        widths=widths,
        keep=["head"],
    )
    costs = CostTable(space)
    graph = additive_space(space, costs)
    assert graph.count() == space.count() > 50
    low, high = costs.range("macs")
    errors = np.random.default_rng(0).standard_normal(len(graph.options))
    front = graph.front(errors, objectives=["macs"], layers=4)
    assert len(front) > 10
    for one in front:
        assert space.refusal(one.architecture) is None
        found = costs.of(one.architecture)
        assert one.costs == {"macs": found.macs, "params": found.params}
        assert low <= found.macs <= high
    assert min(one.costs["macs"] for one in front) == low


def test_blocks_that_are_left_out_are_on_no_path() -> None:
    space = SearchSpace(
        guide=cut(nn.Sequential(conv(1, 4), conv(4, 4), HEAD), ["0", "1"], (1, 8, 8)),
        task=digits(), blocks=[Keep(), Linear()], widths=(0.5, 1.0), keep=["head"],
    )  # fmt: skip
    behind = [choice for choice in space.choices(Span(1, 2), 0.5) if choice.block == "linear"]
    graph = additive_space(space, CostTable(space), without={(one, 0.5) for one in behind})
    found = [one.architecture for one in graph.best(np.zeros(len(graph.options)), 100)]
    assert found and space.count() > len(found)
    # Behind the guide's own width it stands.
    assert any(one.choices[1] in behind for one in found)
    assert all(one.choices[0].width_share == 1 for one in found)


def test_costs_are_spread_over_a_log_scale_whatever_their_unit() -> None:
    assert log_unit(12, 10**6) == log_unit(0, 10**6) == log_unit(0, 0) == 1
    assert log_unit(0.003, 2.0) == 0.003
    assert log_unit(0, 0.5) == 0.5

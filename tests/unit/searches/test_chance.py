"""Random architectures: of the space, within its limits, predicted as the estimate does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from nas_theseus import SearchSpace, choice, cut, minimize
from nas_theseus.blocks import Depthwise, Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.additive import AdditiveEstimate
from nas_theseus.estimate.block_scores import capacities
from nas_theseus.searches.chance import COUNT, Chance, random_architectures
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.genome import Genome
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation


def conv(inlet: int, outlet: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.ReLU())


def space(*limits: str, **more: object) -> SearchSpace:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Depthwise(expand=choice(1, 2)), Linear()],
        max_span=2,
        keep=["head"],
        constraints=list(limits),
        **more,  # type: ignore[arg-type]
    )


SPACE = space()
COSTS = CostTable(SPACE)


def evaluation(architecture: Architecture) -> Evaluation:
    quality = 0.5 + 0.1 * sum(choice.block == "keep" for choice in architecture.choices)
    cost = COSTS.of(architecture)
    return Evaluation(architecture, "r", 0, {"val_accuracy": quality}, cost, 0, 0.0)


def evaluations(count: int) -> list[Evaluation]:
    genome = Genome(SPACE)
    found = {}
    for number in range(5 * count):
        genes = {n: v[(number + i * i) % len(v)] for i, (n, v) in enumerate(genome.genes.items())}
        found[genome.decode(genes)] = None
    return [evaluation(one) for one in list(found)[:count]]


def test_predictions_are_the_estimates_and_costs_are_in_range() -> None:
    known = evaluations(6)
    made = random_architectures(SPACE, COSTS, known, {}, 0)
    assert made is not None and made.metric == "val_accuracy"
    # The space has fewer architectures than are wanted: each is there at most once.
    assert 20 < len(made.quality) <= min(COUNT, SPACE.count())
    low, high = COSTS.range("macs")
    assert all(low <= macs <= high for macs in made.costs["macs"])
    assert (made.in_library, made.learnt_from) == (0.0, len(known))
    estimate = AdditiveEstimate(len(SPACE.guide), capacities=capacities(SPACE, COSTS))
    for one in known:
        estimate.update(one.architecture, one.value("val_accuracy"), rung="final")
    # Where the cost is that of exactly one known network, so is the prediction.
    by_macs = {one.value("macs"): one for one in known}
    shared = [i for i, macs in enumerate(made.costs["macs"]) if macs in by_macs]
    same = 0
    for index in shared:
        ((mean,), _) = estimate.predict([by_macs[made.costs["macs"][index]].architecture])
        same += made.quality[index] == pytest.approx(float(mean))
    assert same >= len(known) // 2


def test_the_same_seed_draws_the_same_and_limits_are_kept() -> None:
    known = evaluations(3)
    first = random_architectures(SPACE, COSTS, known, {}, 1)
    assert first is not None and first == random_architectures(SPACE, COSTS, known, {}, 1)
    low, high = COSTS.range("macs")
    most = (low + high) // 2
    limited = space(f"macs <= {most}")
    made = random_architectures(limited, CostTable(limited), known, {}, 1)
    assert made is not None and max(made.costs["macs"]) <= most < max(first.costs["macs"])


def test_the_library_is_a_prior_and_is_counted() -> None:
    genome = Genome(SPACE)
    every = [genome.decode({})]
    errors = {
        choice: 0.1
        for one in [*every, *(e.architecture for e in evaluations(20))]
        for choice in one.choices
        if choice.block != "keep"
    }
    made = random_architectures(SPACE, COSTS, [], errors, 0)
    assert made is not None and 0 < made.in_library <= 1 and made.learnt_from == 0


def test_without_a_quality_or_anything_to_predict_from_there_is_none() -> None:
    assert random_architectures(SPACE, COSTS, [], {}, 0) is None
    costs_only = space(objectives=[minimize("macs"), minimize("params")])
    assert random_architectures(costs_only, COSTS, evaluations(2), {}, 0) is None


def test_it_is_read_as_it_was_written_and_damage_is_nothing(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path, "one")
    assert Chance.read(folder) is None
    made = Chance("val_accuracy", (0.5, 0.75), {"macs": (10.0, 20.0)}, 0.5, 3)
    folder.create()
    made.write(folder)
    assert Chance.read(folder) == made
    assert made.within("macs", 10, 15) == [0.5] and made.within("params", 0, 99) == []
    replace(made, quality=(0.5,)).write(folder)
    assert Chance.read(folder) is None
    folder.chance_file.write_text(json.dumps([1]))
    assert Chance.read(folder) is None

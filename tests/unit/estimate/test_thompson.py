"""Proposals: new, feasible, spread out at first, and better than chance on an additive truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from torch import nn

from nas_theseus import SearchSpace, choice, cut, maximize, minimize
from nas_theseus.blocks import Bottleneck, Depthwise, Identity, Keep, Linear
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import LimitError
from nas_theseus.estimate.pareto import hypervolume
from nas_theseus.estimate.thompson import STARTUP, PastProposal, Proposer, cheap_half
from nas_theseus.space.genome import Genome
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span
from nas_theseus.values.goals import Direction, Objective
from nas_theseus.values.ids import derive_seed


def conv(inlet: int, outlet: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.ReLU())


def make_space(
    parts: int, objectives: tuple[Objective, ...] = (), limits: tuple[str, ...] = ()
) -> SearchSpace:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10))
    chain = nn.Sequential(conv(1, 8), *(conv(8, 8) for _ in range(parts - 2)), head)
    return SearchSpace(
        guide=cut(chain, [str(i) for i in range(parts - 1)], (1, 8, 8)),
        task=digits(),
        blocks=[
            Keep(),
            Depthwise(expand=choice(1, 2)),
            Bottleneck(ratio=choice(0.25, 0.5)),
            Linear(),
            Identity(),
        ],
        max_span=2,
        keep=["head"],
        objectives=objectives,
        constraints=limits,
    )


SMALL, LARGE = make_space(3), make_space(7)


class Truth:
    """Accuracy as a sum over blocks: what is cheap loses more, with luck; noise of half a point."""

    def __init__(self, space: SearchSpace, seed: int) -> None:
        self.space, self.seed, self.costs = space, seed, CostTable(space)

    def loss(self, choice: BlockChoice) -> float:
        if choice.block == "keep":
            return 0.0
        luck = np.random.default_rng(derive_seed(self.seed, choice)).lognormal(0, 0.7)
        cost = self.costs.of_choice(choice).macs
        return float(luck) * len(choice.span) * (0.004 + 0.005 / math.log10(10 + cost))

    def accuracy(self, architecture: Architecture) -> float:
        return 0.95 - sum(map(self.loss, architecture.choices))

    def told(self, architecture: Architecture) -> PastProposal:
        noise = np.random.default_rng(derive_seed(self.seed, architecture.id)).standard_normal()
        values = {"val_accuracy": self.accuracy(architecture) + 0.005 * float(noise)}
        return PastProposal(architecture, values | self.costs.of(architecture).known())

    def hypervolume(self, architectures: list[Architecture]) -> float:
        points = [[math.log10(self.costs.of(a).macs), -self.accuracy(a)] for a in architectures]
        return hypervolume(points, [math.log10(self.costs.of_parts().macs), -0.85])

    def run(self, proposer: Proposer, count: int) -> list[Architecture]:
        guide = self.space.guide_architecture()
        assert guide is not None
        told = [self.told(guide)]
        while len(told) < count:
            found = proposer.propose(told, derive_seed(self.seed, len(told)))
            assert found is not None
            told.append(self.told(found))
        return [one.architecture for one in told]


def at_random(space: SearchSpace, seed: int, count: int) -> list[Architecture]:
    genome, rng = Genome(space), np.random.default_rng(seed)
    found: dict[Architecture, None] = {}
    while len(found) < count:
        genes = {name: values[rng.integers(len(values))] for name, values in genome.genes.items()}
        found[genome.decode(genes)] = None
    return list(found)


def test_what_has_a_result_that_is_not_told_any_more_is_not_proposed_again() -> None:
    truth = Truth(SMALL, 0)
    told = [truth.told(architecture) for architecture in at_random(SMALL, 0, 10)]
    forgetful = Proposer(SMALL, truth.costs)
    known = {forgetful.propose(told, seed) for seed in range(5)}
    remembering = Proposer(SMALL, truth.costs, known=known.__contains__)
    found = {remembering.propose(told, seed) for seed in range(5)}
    assert None not in found and not found & known


def test_costs_are_begun_with_in_the_middle_then_upwards_in_the_cheaper_half() -> None:
    assert [8 * cheap_half(turn, 5) for turn in range(6)] == [0, 4, 1, 2, 3, 0]
    assert [cheap_half(turn, 1) for turn in range(3)] == [0, 0, 0]
    for turns in range(2, 12):
        shares = [cheap_half(turn, turns) for turn in range(turns)]
        steps = turns - 1
        assert sorted(shares) == [step / steps / 2 for step in range(turns)]


def test_a_gain_is_weighed_against_what_its_training_costs() -> None:
    truth = Truth(LARGE, 0)
    weighing, careless = (Proposer(LARGE, truth.costs) for _ in range(2))
    careless._prices = lambda candidates: np.ones(len(candidates))  # type: ignore[method-assign]
    found = [truth.run(proposer, 20) for proposer in (weighing, careless)]
    spent = [sum(truth.costs.of(one).macs for one in each) for each in found]
    assert spent[0] < 0.9 * spent[1]
    volumes = [truth.hypervolume(each) for each in found]
    assert volumes[0] > 0.95 * volumes[1]

    guide = LARGE.guide_architecture()
    assert guide is not None
    # The price is known whether or not MACs are among the costs that fronts are solved for.
    known = truth.costs.of(guide).known()
    prices = [weighing._prices([(guide, costs)])[0] for costs in (known, {})]
    assert prices == pytest.approx([1.05, 1.05])


def test_proposals_beat_chance_on_an_additive_truth() -> None:
    ours, chance, told_errors = [], [], []
    for seed in range(3):
        truth = Truth(LARGE, seed)
        ours.append(truth.hypervolume(truth.run(Proposer(LARGE, truth.costs), 20)))
        chance.append(truth.hypervolume(at_random(LARGE, seed, 20)))
        every = {o: truth.loss(o) for s in LARGE.spans() for o in LARGE.choices(s)}
        told = Proposer(LARGE, truth.costs, errors=lambda every=every: every)  # type: ignore[misc]
        told_errors.append(truth.hypervolume(truth.run(told, 20)))
    assert np.mean(ours) > 1.15 * np.mean(chance)
    assert np.mean(told_errors) > np.mean(ours)


def test_what_was_proposed_before_changes_no_proposal() -> None:
    truth = Truth(LARGE, 0)
    told = [truth.told(architecture) for architecture in at_random(LARGE, 0, 40)]
    errors: dict[BlockChoice, float] = {}
    lasting = Proposer(LARGE, truth.costs, errors=errors.copy)
    # One more at a time, one told late in the middle, and block errors that come to be known.
    pasts = [told[:20], told[:21], told[:35], told[:30] + told[31:36], told[:36], told]
    for number, past in enumerate(pasts):
        if number == 2:
            choices = {choice for one in told for choice in one.architecture.choices}
            errors.update({c: truth.loss(c) for c in choices if c.block != "keep"})
        new = Proposer(LARGE, truth.costs, errors=errors.copy)
        assert lasting.propose(past, number) == new.propose(past, number)


def test_all_of_a_small_space_is_proposed_once_then_nothing() -> None:
    truth = Truth(SMALL, 0)
    proposer = Proposer(SMALL, truth.costs)
    found = truth.run(proposer, SMALL.count())
    assert len(set(found)) == SMALL.count()
    assert proposer.propose([truth.told(one) for one in found], 0) is None


def test_what_runs_failed_or_was_predicted_is_not_proposed_again_and_teaches_nothing() -> None:
    truth = Truth(LARGE, 0)
    proposer = Proposer(LARGE, truth.costs)
    told = [truth.told(one) for one in at_random(LARGE, 0, 10)]
    first = proposer.propose(told, 5)
    assert first is not None
    for waiting in (
        PastProposal(first),
        PastProposal(first, running=True),
        PastProposal(first, None, feasible=False),
    ):
        assert proposer.propose([*told, waiting], 5) not in (None, first)
    only_failed = [PastProposal(one.architecture) for one in told]
    assert proposer.propose(only_failed, 5) not in [None, *(one.architecture for one in told)]


def test_a_running_one_counts_with_what_is_expected_of_it() -> None:
    """Many asked at once are spread over the front, not crowded at its best place."""
    truth = Truth(LARGE, 1)
    proposer = Proposer(LARGE, truth.costs)
    told = [truth.told(one) for one in truth.run(proposer, 16)]
    while len(told) < 22:
        found = proposer.propose(told, 7)
        assert found is not None
        told.append(PastProposal(found, running=True))
    macs = np.log10([truth.costs.of(one.architecture).macs for one in told[16:]])
    assert len({one.architecture for one in told}) == 22
    assert macs.max() - macs.min() > 0.2


def test_the_first_are_spread_over_the_cheaper_half_of_the_cost_range() -> None:
    truth = Truth(LARGE, 3)
    _, *first = truth.run(Proposer(LARGE, truth.costs), STARTUP)
    shares = np.log10([truth.costs.of(one).macs for one in first])
    low, high = np.log10(truth.costs.range("macs"))
    shares = (shares - low) / (high - low)
    assert shares[0] == pytest.approx(0.5, abs=0.1)  # the middle, then upwards
    assert list(shares[1:]) == sorted(shares[1:])
    assert shares[1:] == pytest.approx([1 / 8, 2 / 8, 3 / 8], abs=0.1)


def test_block_errors_are_the_prior_and_kept_parts_have_none() -> None:
    start, rest = BlockChoice(Span(0, 1), "keep"), BlockChoice(Span(2, 3), "keep")
    middles = [BlockChoice(Span(1, 2), name) for name in ("keep", "linear", "identity")]
    nets = [Architecture((start, middle, rest)) for middle in middles]
    errors = {middles[1]: 0.1, middles[2]: 0.9}

    def expected(errors: dict[BlockChoice, float]) -> list[float]:
        proposer = Proposer(SMALL, CostTable(SMALL), errors=lambda: errors)
        return proposer._estimate([]).predict(nets)[0].tolist()

    kept, linear, identity = expected(errors)
    assert kept > linear > identity
    # Without errors the multiply-adds alone say what a block can do; errors weigh against them.
    by_macs = expected({})
    assert by_macs == sorted(by_macs, reverse=True)
    _, linear, identity = expected({middles[1]: 0.9, middles[2]: 0.1})
    assert linear - identity < by_macs[1] - by_macs[2]


def test_limits_on_additive_costs_are_kept_by_every_proposal() -> None:
    low, high = CostTable(LARGE).range("macs")
    limits = (f"macs <= {(low + high) // 3}", "params >= 900", "val_accuracy >= 0.86")
    space = make_space(7, limits=limits)
    truth = Truth(space, 0)
    proposer = Proposer(space, truth.costs)
    told = [truth.told(one) for one in at_random(space, 0, 3)]
    for seed in range(12):
        found = proposer.propose(told, seed)
        assert found is not None
        cost = truth.costs.of(found)
        assert cost.macs <= (low + high) // 3 and cost.params >= 900
        told.append(truth.told(found))


def test_limits_that_nothing_keeps_are_told() -> None:
    space = make_space(3, limits=("macs <= 1",))
    with pytest.raises(LimitError, match="no architecture keeps macs <= 1"):
        Proposer(space, CostTable(space)).propose([], 0)


@pytest.mark.parametrize(
    "objectives",
    [
        (maximize("val_accuracy"),),
        (maximize("val_accuracy"), minimize("macs"), minimize("params")),
        (minimize("params"), maximize("val_accuracy", reference=0.8)),
    ],
)
def test_other_numbers_and_orders_of_objectives(objectives: tuple[Objective, ...]) -> None:
    space = make_space(5, objectives)
    truth = Truth(space, 0)
    found = truth.run(Proposer(space, truth.costs), 12)
    assert len(set(found)) == 12


class Kept:
    """An additive cost of which more is better: parts that are the guide's own."""

    name, unit, additive = "kept_parts", "parts", True
    direction: Direction = "maximize"

    def count(self, module: nn.Module, inlet: Boundary) -> float:
        return float(any(isinstance(one, nn.ReLU) for one in module.modules())) / 8


def test_an_additive_cost_of_which_more_is_better_is_gained() -> None:
    space = make_space(6, (maximize("val_accuracy"), maximize(Kept())))
    costs = CostTable(space)
    proposer = Proposer(space, costs)
    known = [
        PastProposal(one, {"val_accuracy": 0.9, **costs.of(one).known()})
        for one in at_random(space, 0, 12)
    ]
    before = len(known)
    for seed in range(8):
        found = proposer.propose(known, seed)
        assert found is not None
        known.append(PastProposal(found, {"val_accuracy": 0.9, **costs.of(found).known()}))
    each = [costs.of(one.architecture)["kept_parts"] for one in known]
    assert max(each[before:]) > max(each[:before])
    assert max(each) == costs.range("kept_parts")[1]


def test_a_measured_cost_is_learnt_from_trials() -> None:
    """Latency that is due to one block alone: proposals come to do without it."""
    space = make_space(6, (maximize("val_accuracy"), minimize("latency_ms")))
    costs = CostTable(space)

    def told(architecture: Architecture) -> PastProposal:
        slow = sum(choice.block == "depthwise" for choice in architecture.choices)
        return PastProposal(
            architecture, {"val_accuracy": 0.9, "latency_ms": 1.0 + slow, "macs": 1.0}
        )

    proposer = Proposer(space, costs)
    known = [told(one) for one in at_random(space, 0, 14)]
    for seed in range(8):
        found = proposer.propose(known, seed)
        assert found is not None
        known.append(told(found))
    used = [any(c.block == "depthwise" for c in one.architecture.choices) for one in known]
    assert sum(used[:14]) >= 7
    assert sum(used[14:]) <= 3


@pytest.mark.parametrize("reason", ["slow", "bad"])
def test_stopped_ones_teach_what_they_cost_and_what_they_were_at_a_rung(reason: str) -> None:
    """One block makes candidates slow, or bad: all that have it are stopped at the first rung."""
    space = make_space(6, (maximize("val_accuracy"), minimize("latency_ms")))
    costs = CostTable(space)

    def told(architecture: Architecture) -> PastProposal:
        used = sum(choice.block == "depthwise" for choice in architecture.choices)
        lost = 0.1 * used if reason == "bad" else 0.0
        return PastProposal(
            architecture,
            # What was predicted is worth nothing: it must not be learnt.
            {"val_accuracy": 0.99 if used else 0.9,
             "latency_ms": 1.0 + used * (reason == "slow"), "macs": 1.0},
            predicted=used > 0,
            rungs={"converted": 0.7 - lost} | ({} if used else {"epoch_1": 0.8}),
        )  # fmt: skip

    proposer = Proposer(space, costs, {"val_accuracy": 0.5, "latency_ms": 8.0})
    known = [told(one) for one in at_random(space, 0, 20)]
    for seed in range(8):
        found = proposer.propose(known, seed)
        assert found is not None
        known.append(told(found))
    used = [one.predicted for one in known]
    assert sum(used[:20]) >= 10
    assert sum(used[20:]) <= 3


def test_a_quality_that_is_minimised_is_improved() -> None:
    space = make_space(6, (minimize("val_accuracy", log=False), minimize("macs")))
    truth = Truth(space, 0)

    def told(architecture: Architecture) -> PastProposal:
        perplexity = math.exp(4 * (1 - truth.accuracy(architecture)))
        values: dict[str, float] = {"val_accuracy": perplexity}
        return PastProposal(architecture, values | truth.costs.of(architecture).known())

    proposer = Proposer(space, truth.costs)
    known = [told(one) for one in at_random(space, 0, 8)]
    for seed in range(10):
        found = proposer.propose(known, seed)
        assert found is not None
        known.append(told(found))
    first, later = ([truth.hypervolume([o.architecture for o in part])]
                    for part in (known[:8], known[8:]))  # fmt: skip
    assert later[0] > first[0]

"""Costs that are no part of the package, one counted and one measured, in a whole search."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import nas_theseus
from nas_theseus.candidate.workshop import Converted, Workshop
from nas_theseus.costs import count_params
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import LimitError, SpaceError
from nas_theseus.estimate.thompson import PastProposal, Proposer
from nas_theseus.searches.beginning import refuse_mistakes
from nas_theseus.searches.budget import answer, parse_budget
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in

COSTS = '''
class WeightKib:
    """An additive cost: the weights' size in int8."""

    name, unit, direction, additive = "weight_kib", "KiB", "minimize", True

    def count(self, module, inlet):
        return sum(p.numel() for p in module.parameters()) / 1024


class ActivationBytes:
    """A measured cost: all that convolutions and linear layers give, one input at a time."""

    name, unit, direction, additive = "activation_bytes", "bytes", "minimize", False

    def measure(self, network, inlet, device, threads):
        given = []
        for module in network.modules():
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                module.register_forward_hook(lambda m, i, output: given.append(output.nbytes))
        network(torch.zeros(1, *inlet.shape, device=device))
        return {"activation_bytes": sum(given), "activation_layers": len(given)}


'''
GOALS = """keep=["head"],
        objectives=[
            maximize("val_accuracy"), minimize(WeightKib()), minimize(ActivationBytes()),
        ],
        constraints=["weight_kib <= 1.5", "activation_bytes <= 1e6"],
"""


def with_costs(text: str, goals: str = GOALS) -> str:
    """The toy space with the costs of this file."""
    text = text.replace("from torch import nn", "import torch\nfrom torch import nn", 1)
    text = text.replace("choice, cut\n", "choice, cut, maximize, minimize\n", 1)
    text = text.replace("def space():", f"{COSTS}def space():", 1)
    return text.replace('keep=["head"],\n', goals, 1)


@pytest.fixture
def space_file(tmp_path: Path, toy_space_text: str) -> Path:
    path = tmp_path / "mine.py"
    path.write_text(with_costs(toy_space_text))
    return path


def test_an_additive_cost_is_known_before_anything_runs(space_file: Path) -> None:
    space = load_space(space_file)
    assert mistakes_in(space) == []
    assert space.additive == ("macs", "params", "weight_kib")
    assert space.measured == ("activation_bytes",)
    assert all(goal.log for goal in space.goals[1:])
    table = CostTable(space)
    guide = table.of_parts()
    assert guide["weight_kib"] == count_params(space.guide) / 1024
    low, high = table.range("weight_kib")
    params = table.range("params")
    assert (low, high) == pytest.approx((params[0] / 1024, params[1] / 1024))
    assert low < 1.5 < high
    assert table.uncountable() == table.unmeetable() == table.without_logarithm() == []


def test_a_measured_cost_is_measured_on_the_finished_candidate(space_file: Path) -> None:
    space = load_space(space_file)
    workshop = Workshop(space, torch.device("cpu"))
    architecture = space.guide_architecture()
    assert architecture is not None
    *_, made = workshop.convert(architecture, 0)
    assert isinstance(made, Converted)
    evaluation = made.evaluation
    # Outputs of three convolutions and of the last linear layer, four bytes a number.
    assert evaluation.cost["activation_bytes"] == 4 * (8 * 64 + 8 * 64 + 16 * 16 + 10)
    assert evaluation.metrics.keys() == {"val_accuracy", "activation_layers"}
    assert evaluation.cost["weight_kib"] == pytest.approx(evaluation.cost.params / 1024)
    again = type(evaluation).from_json(json.loads(json.dumps(evaluation.to_json())))
    assert again.cost == evaluation.cost


def test_proposals_keep_a_limit_on_an_additive_cost(space_file: Path) -> None:
    space = load_space(space_file)
    costs = CostTable(space)
    proposer = Proposer(space, costs, {"val_accuracy": 0.5, "activation_bytes": 1e5})
    known: list[PastProposal] = []
    for seed in range(16):
        found = proposer.propose(known, seed)
        assert found is not None
        cost = costs.of(found)
        assert cost["weight_kib"] <= 1.5
        layers = float(len(found.choices))
        values = {"val_accuracy": 0.9 - 0.01 * layers, "activation_bytes": 1e3 * layers}
        known.append(PastProposal(found, {**values, **cost.known()}))
    assert len({one.architecture for one in known}) == 16


def test_a_search_by_the_users_own_costs(
    space_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = {"executor": "inline", "trackers": ["json-lines"], "library": False}
    result = nas_theseus.search(space_file, trials=10, **options)
    assert result.status.progress.done == 10 and not result.failures
    assert result.guide["weight_kib"] > 1.5 and result.guide["activation_layers"] == 4
    frame = result.frame()
    assert (frame["weight_kib"] <= 1.5).all() and (frame["activation_bytes"] > 0).all()
    assert [one.name for one in result.plot().data] == ["evaluations", "front", "guide"]

    folder = SearchFolder(tmp_path / "theseus", "mine")
    least, _ = CostTable(load_space(space_file)).range("weight_kib")
    middle = (least + 1.5) / 2
    found = answer(folder, parse_budget(f"weight_kib <= {middle}"), trust_code=True)
    assert found.predicted and found.epsilon == 0
    for one in found.predicted:
        assert one.costs.keys() == {"macs", "params", "weight_kib"}
        assert one.costs["weight_kib"] <= middle
    assert json.loads(json.dumps(found.rows()))[0]["weight_kib"] <= middle
    for member in found.evaluated:
        assert member.evaluation.cost["weight_kib"] <= middle
    with pytest.raises(LimitError, match=r"keeps weight_kib <= 0\.001: the closest has weight_kib"):
        answer(folder, parse_budget("weight_kib <= 0.001"), trust_code=True)
    found = answer(folder, parse_budget("activation_bytes <= 5e4"), trust_code=True)
    assert found.not_predicted == ("activation_bytes",)
    assert all(one.evaluation.cost["activation_bytes"] <= 5e4 for one in found.evaluated)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            '"weight_kib", "KiB"',
            '"weight-kib", "KiB"',
            "'weight-kib' .*a name must be an identifier",
        ),
        ('"weight_kib", "KiB"', '"val_kib", "KiB"', "'val_kib' .*use this name for something else"),
        ('"weight_kib", "KiB"', '"macs", "KiB"', "cost 'macs' is part of nas-theseus; choose"),
        ("def count", "def counted", r"is additive, so it needs a method count\(module, inlet\)"),
        ("minimize(WeightKib())", "minimize(WeightKib)", "class itself; call it: WeightKib"),
        ("minimize(WeightKib())", "maximize(WeightKib())", r"use minimize\('weight_kib'\)"),
        ("/ 1024", "/ 1024 - 1e6", "block 'keep': cost weight_kib of .* at least 0"),
        ("/ 1024", '* float("nan")', "guide: cost weight_kib .* a finite number"),
        ("/ 1024", "/ 1024 if inlet.kid else 0", "WeightKib failed with AttributeError"),
        (
            "p.numel()",
            "0 * p.numel()",
            r"is 0 for the cheapest architecture; use minimize\('weight",
        ),
        (
            "weight_kib <= 1.5",
            "weight_kib <= 0.1",
            "no architecture meets the constraint 'weight_kib <= 0.1': the cheapest",
        ),
        ("weight_kib <= 1.5", "weight_mib <= 1.5", "unknown 'weight_mib' .*known: .*weight_kib"),
        ('sum(given), "', '0, "', "activation_bytes of Guide is 0, which has no logarithm"),
        ("sum(given)", "torch.ones(1)", "ActivationBytes.measure must return a finite number"),
        ("network(torch", "device.index.x(torch", "ActivationBytes failed with AttributeError"),
    ],
)
def test_a_cost_that_cannot_be_used_is_refused_before_training(
    old: str, new: str, said: str, tmp_path: Path, toy_space_text: str
) -> None:
    text = with_costs(toy_space_text)
    assert old in text
    (tmp_path / "wrong.py").write_text(text.replace(old, new))
    with pytest.raises(SpaceError, match=said):
        refuse_mistakes(load_space(tmp_path / "wrong.py"), "wrong.py")


def test_a_cost_that_only_the_device_of_trials_can_measure_passes_the_check(
    tmp_path: Path, toy_space_text: str
) -> None:
    text = with_costs(toy_space_text).replace(
        "        given = []\n",
        "        from nas_theseus.errors import CostError\n"
        '        raise CostError("energy is read from the GPU\'s own counter")\n',
    )
    (tmp_path / "energy.py").write_text(text)
    refuse_mistakes(load_space(tmp_path / "energy.py"), "energy.py")

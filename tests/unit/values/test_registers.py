"""Members that a space file adds are known to that space only; others everywhere."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from nas_theseus.costs.table import CostTable
from nas_theseus.errors import SpaceError, UnknownNameError
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.registers import (
    COSTS,
    FORMATS,
    METRICS,
    SAMPLERS,
    SCHEDULES,
    SIMILARITIES,
    TRACKERS,
    activate,
    active_space,
)

SPACE = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, cut, maximize, minimize
from nas_theseus.blocks import Keep, Linear
from nas_theseus.tasks import digits
from nas_theseus.values.registers import COSTS, FORMATS, METRICS, SAMPLERS, SCHEDULES, TRACKERS
ADDED

def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), head)
    return SearchSpace(
        guide=cut(net, ["0", "1"], (1, 8, 8)), task=TASK, blocks=[Keep(), Linear()],
        OPTIONS
    )
"""

ENERGY = """
class Energy:
    name, unit, direction, additive = "energy_mj", "mJ", "minimize", True
    def count(self, module, inlet):
        return FACTOR
"""


@pytest.fixture(autouse=True)
def own_state() -> Iterator[None]:
    before = activate(None)
    yield
    activate(before)


def write(
    folder: Path, name: str, added: str = "", options: str = "", task: str = "digits()"
) -> Path:
    path = folder / f"{name}.py"
    text = SPACE.replace("ADDED", added).replace("OPTIONS", options).replace("TASK", task)
    path.write_text(text)
    return path


def energy(folder: Path, name: str, factor: float) -> SearchSpace:
    options = 'objectives=[maximize("val_accuracy"), minimize(Energy())],'
    return load_space(write(folder, name, ENERGY.replace("FACTOR", str(factor)), options))


def test_a_cost_of_one_space_is_unknown_to_the_next(tmp_path: Path) -> None:
    energy(tmp_path, "a", 3.0)
    assert "energy_mj" in COSTS and "energy_mj" in COSTS.one_of
    other = load_space(write(tmp_path, "b", options='constraints=["energy_mj <= 5"],'))
    assert "energy_mj" not in COSTS and "energy_mj" not in list(COSTS)
    with pytest.raises(UnknownNameError, match="unknown cost 'energy_mj'; use block_latency_ms"):
        COSTS["energy_mj"]
    (said,) = mistakes_in(other)
    assert said.startswith("constraints: unknown 'energy_mj'") and said.count("energy_mj") == 2


def test_two_spaces_each_have_their_own_cost_of_one_name(tmp_path: Path) -> None:
    first, second = energy(tmp_path, "a", 3.0), energy(tmp_path, "b", 7.0)
    for space, factor in ((first, 3.0), (second, 7.0)):
        assert mistakes_in(space) == []
        # A copy made while the other space is active, as a search makes one.
        for one in (space, replace(space, recipe=space.recipe)):
            assert CostTable(one).of_parts()["energy_mj"] == factor * len(one.guide)
            assert one.own_costs == {"energy_mj"}


def test_a_space_that_is_loaded_again_knows_what_its_modules_added_once(tmp_path: Path) -> None:
    # A module beside the space runs once in a process.
    (tmp_path / "costs.py").write_text(
        ENERGY.replace("FACTOR", "2.0")
        + "\nfrom nas_theseus.values.registers import COSTS\nCOSTS.add('energy_mj', Energy())\n"
    )
    options = 'constraints=["energy_mj <= 50"],'
    path = write(tmp_path, "a", "import costs", options)
    assert mistakes_in(load_space(path)) == []
    load_space(write(tmp_path, "b"))
    assert "energy_mj" not in COSTS
    assert mistakes_in(load_space(path)) == []


@pytest.mark.parametrize(
    ("register", "added"),
    [
        (SAMPLERS, "SAMPLERS.add('mine', lambda seed: None)"),
        (TRACKERS, "TRACKERS.add('mine', object)"),
        (FORMATS, "FORMATS.add('mine', object())"),
    ],
    ids=["sampler", "tracker", "format"],
)
def test_so_are_members_of_other_registers(tmp_path: Path, register, added: str) -> None:  # type: ignore[no-untyped-def]
    load_space(write(tmp_path, "a", added))
    assert "mine" in register
    load_space(write(tmp_path, "b"))
    assert "mine" not in register


@pytest.mark.parametrize(
    ("register", "option", "body"),
    [
        (SIMILARITIES, "similarity", "aligned_basis, minimum_examples = False, 2\n"
         "    def prepare(self, guide): return guide\n"
         "    def loss(self, features, prepared): return features.mean()"),
        (SCHEDULES, "schedule", "is_control, fresh, taught = False, False, True\n"
         "    def stages(self, order, replaced): return []"),
    ],
    ids=["similarity", "schedule"],
)  # fmt: skip
def test_so_are_similarities_and_schedules_but_recipes_keep_theirs(  # type: ignore[no-untyped-def]
    tmp_path: Path, register, option: str, body: str
) -> None:
    added = f"class Mine:\n    name = 'mine'\n    {body}\n"
    space = load_space(write(tmp_path, "a", added, f"recipe=Recipe({option}=Mine()),"))
    assert "mine" in register
    load_space(write(tmp_path, "b"))
    assert "mine" not in register
    assert register[getattr(space.recipe, option)].name == "mine"  # by name and fingerprint


def test_a_task_keeps_the_metric_of_its_own_space(tmp_path: Path) -> None:
    added = """
class Meter:
    def __init__(self): self.reset()
    def reset(self): self.seen = 0
    def update(self, outputs, targets): self.seen += 1
    def compute(self): return VALUE

class Mine:
    direction, kinds = "maximize", ("classes",)
    def make(self, targets): return Meter()

METRICS.add("mine", Mine())
"""
    task = 'digits(metric="mine")'
    spaces = [
        load_space(write(tmp_path, name, added.replace("VALUE", value), task=task))
        for name, value in (("a", "0.25"), ("b", "0.75"))
    ]
    assert [float(space.task.meter().compute()) for space in spaces] == [0.25, 0.75]
    load_space(write(tmp_path, "c"))
    assert "mine" not in METRICS
    assert spaces[0].task.direction == "maximize"


def test_a_space_that_cannot_be_loaded_changes_nothing(tmp_path: Path) -> None:
    energy(tmp_path, "a", 3.0)
    active = active_space()
    with pytest.raises(SpaceError, match="no luck"):
        load_space(write(tmp_path, "b", "raise RuntimeError('no luck')"))
    assert active_space() == active and "energy_mj" in COSTS


def test_members_from_elsewhere_are_known_everywhere(tmp_path: Path) -> None:
    try:
        SAMPLERS.add("from_a_notebook", lambda seed: None)
        load_space(write(tmp_path, "a"))
        assert "from_a_notebook" in SAMPLERS
        load_space(write(tmp_path, "b"))
        assert "from_a_notebook" in SAMPLERS
    finally:
        SAMPLERS._added[None].pop("from_a_notebook")


CACHE = """
from nas_theseus.costs.measures.kv_cache_bytes import KVCacheBytes
from nas_theseus.costs.measures.weight_bytes import WeightBytes
"""
OPTION = 'objectives=[maximize("val_accuracy"), minimize(WeightBytes(dtype="bfloat16"))],'


def test_options_of_the_packages_costs_belong_to_one_space(tmp_path: Path) -> None:
    half = load_space(write(tmp_path, "a", CACHE, OPTION))
    plain = load_space(write(tmp_path, "b", options='constraints=["weight_bytes <= 1e9"],'))
    assert (
        2 * CostTable(half).of_parts()["weight_bytes"]
        == (CostTable(plain).of_parts()["weight_bytes"])
    )
    assert half.own_costs == plain.own_costs == frozenset()
    assert COSTS["weight_bytes"].dtype is None


def test_options_without_an_objective_are_added_by_name(tmp_path: Path) -> None:
    added = CACHE + "COSTS.add('weight_bytes', WeightBytes('bfloat16'))\n"
    options = 'constraints=["weight_bytes <= 1e9"],'
    assert load_space(write(tmp_path, "a", added, options)).measures["weight_bytes"].dtype
    assert COSTS["weight_bytes"].dtype == "bfloat16"


@pytest.mark.parametrize(
    ("added", "said"),
    [
        ("COSTS.add('weight_bytes', KVCacheBytes())", "'weight_bytes' is part of nas-theseus"),
        ("class Mine(WeightBytes): pass\nCOSTS.add('weight_bytes', Mine())", "choose another name"),
        ("SCHEDULES.add('naive', lambda seed: None)", "'naive' is part of nas-theseus; choose"),
    ],
    ids=["another cost", "a subclass", "another register"],
)
def test_other_members_may_not_take_a_name_of_the_package(
    tmp_path: Path, added: str, said: str
) -> None:
    with pytest.raises(SpaceError, match=said):
        load_space(write(tmp_path, "a", CACHE + added))


def test_options_from_outside_a_space_are_refused() -> None:
    from nas_theseus.costs.measures.weight_bytes import WeightBytes

    with pytest.raises(UnknownNameError, match=r"belong to one space; write WeightBytes\(…\) in a"):
        COSTS.add("weight_bytes", WeightBytes("bfloat16"))

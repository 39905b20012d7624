"""Costs of blocks measured once: who has the same number, where it is kept, who may not measure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut, maximize, minimize
from nas_theseus.blocks import Keep, Linear
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.costs import decoding
from nas_theseus.costs.block_measurements import (
    BlockMeasurements,
    BlockMeter,
    Place,
    measurement_id,
)
from nas_theseus.costs.measures.decode_latency_ms import DecodeLatencyMs
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import measured_costs, measured_on_blocks
from nas_theseus.errors import CostError
from nas_theseus.guide.chain import Guide
from nas_theseus.space.objectives import measure_mistakes
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction

CPU = torch.device("cpu")
TOKENS = Boundary((12, 8))
CALLS: list[int] = []


@dataclass(frozen=True)
class Energy:
    """Another number at every measurement."""

    factor: float = 1.0
    name: str = field(default="energy_mj", init=False)
    unit: str = field(default="mJ", init=False)
    direction: Direction = field(default="minimize", init=False)
    additive: bool = field(default=True, init=False)

    def measure_blocks(
        self,
        blocks: Sequence[nn.Module],
        inlet: Boundary,
        device: torch.device,
        threads: int | None,
    ) -> float:
        assert not any(block.training for block in blocks)
        CALLS.append(len(blocks))
        return self.factor * len(CALLS)


ENERGY = Energy()


@pytest.fixture(autouse=True)
def no_calls() -> None:
    CALLS.clear()


def make_space() -> SearchSpace:
    def conv(inlet: int) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inlet, 4, 3, 1, 1), nn.BatchNorm2d(4))

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    guide = cut(nn.Sequential(conv(1), conv(4), conv(4), head), ["0", "1", "2"], (1, 8, 8))
    return SearchSpace(
        guide=guide,
        task=digits(),
        blocks=[Keep(), Linear()],
        keep=["head"],
        objectives=[maximize("val_accuracy"), minimize(ENERGY)],
        recipe=Recipe(epochs=0, align_steps=0, library=False),
    )


def test_the_same_block_in_other_places_and_with_other_weights_is_one() -> None:
    one, other = nn.Linear(8, 8), nn.Linear(8, 8)
    name = measurement_id(ENERGY, one, TOKENS)
    assert measurement_id(ENERGY, other, TOKENS) == name
    different = [
        measurement_id(Energy(2.0), one, TOKENS),
        measurement_id(ENERGY, nn.Linear(8, 8, bias=False), TOKENS),
        measurement_id(ENERGY, nn.Linear(8, 9), TOKENS),
        measurement_id(ENERGY, one, Boundary((13, 8))),
        measurement_id(ENERGY, nn.Linear(8, 8).bfloat16(), TOKENS),
        measurement_id(DecodeLatencyMs(), one, TOKENS),
        measurement_id(DecodeLatencyMs(context=5), one, TOKENS),
        measurement_id(DecodeLatencyMs(dtype="bfloat16"), one, TOKENS),
    ]
    assert len({name, *different}) == 1 + len(different)


def test_a_table_is_read_by_the_next_process_and_measured_by_none(tmp_path: Path) -> None:
    space, file = make_space(), tmp_path / "new" / "table.jsonl"
    costs = CostTable(space, BlockMeter(file, CPU, 1))
    assert costs.lacking() == len(costs.measured()) == len(CALLS) > 3
    assert set(CALLS) == {1}
    assert costs.lacking() == 0
    before = file.read_bytes()
    again = CostTable(make_space(), BlockMeter(file, CPU, 1))
    assert again.measured() == costs.measured()
    assert again.of_parts() == costs.of_parts()
    assert again.range("energy_mj") == costs.range("energy_mj")
    assert file.read_bytes() == before and len(CALLS) == len(before.splitlines())


def test_a_second_meter_takes_what_another_measured_meanwhile(tmp_path: Path) -> None:
    first, second = (BlockMeter(tmp_path / "table.jsonl", CPU, 1) for _ in range(2))
    block = nn.Linear(8, 8)
    assert first.of(ENERGY, block, TOKENS) == second.of(ENERGY, block, TOKENS) == 1
    assert len(CALLS) == 1


def test_each_place_has_numbers_of_its_own(tmp_path: Path) -> None:
    block, file = nn.Linear(8, 8), tmp_path / "table.jsonl"
    numbers = [BlockMeter(file, CPU, threads).of(ENERGY, block, TOKENS) for threads in (1, 2, 1)]
    assert numbers == [1, 2, 1]
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["place"]["threads"] for line in lines] == [1, 2]
    assert {line["place"]["version"] for line in lines} == {torch.__version__}
    assert lines[0]["place"]["device"] and lines[0]["block"] == "Linear"


class FasterInARow:
    """A block takes 5 alone, and 3 in a row."""

    name, unit, direction, additive = "own_ms", "ms", "minimize", True

    def measure_blocks(self, blocks: Sequence[nn.Module], *place: object) -> float:
        CALLS.append(len(blocks))
        return 5.0 if len(blocks) == 1 else 3.0 * len(blocks)


def test_numbers_are_corrected_by_the_guide_as_a_whole(tmp_path: Path) -> None:
    space, file, measure = make_space(), tmp_path / "table.jsonl", FasterInARow()
    meter = BlockMeter(file, CPU, 1, guide=space.guide)
    # 3 for each of four parts of a row, over 5 alone.
    assert meter.of(measure, nn.Linear(8, 8), TOKENS) == pytest.approx(5 * 12 / 20)
    parts = zip(space.guide.parts, space.guide.boundaries, strict=False)
    assert sum(meter.of(measure, *part) for part in parts) == pytest.approx(12)
    assert CALLS.count(4) == 1
    # The table has what was measured, and the next process measures nothing.
    assert {json.loads(line)["value"] for line in file.read_text().splitlines()} == {5.0, 12.0}
    calls = len(CALLS)
    again = BlockMeter(file, CPU, 1, guide=space.guide)
    assert again.of(measure, nn.Linear(8, 8), TOKENS) == pytest.approx(3)
    assert again.factor(measure) == pytest.approx(0.6) and len(CALLS) == calls
    # Numbers that a search has stay, and are not corrected twice.
    known = BlockMeter(tmp_path / "other.jsonl", CPU, 1, again.numbers, space.guide)
    assert known.of(measure, nn.Linear(8, 8), TOKENS) == pytest.approx(3) and len(CALLS) == calls


class NoPooling(FasterInARow):
    def measure_blocks(self, blocks: Sequence[nn.Module], *given: Any) -> float:
        if any(isinstance(m, nn.AdaptiveAvgPool2d) for block in blocks for m in block.modules()):
            raise CostError("pooling has no energy")
        return super().measure_blocks(blocks, *given)


def test_a_guide_that_cannot_be_measured_corrects_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A space may replace just the parts that a runtime does not run."""
    meter = BlockMeter(tmp_path / "table.jsonl", CPU, 1, guide=make_space().guide)
    assert meter.of(NoPooling(), nn.Linear(8, 8), TOKENS) == 5
    assert "own_ms of blocks is not corrected by the guide: pooling has no energy" in caplog.text


def test_damaged_lines_are_measured_again(tmp_path: Path) -> None:
    block, file = nn.Linear(8, 8), tmp_path / "table.jsonl"
    BlockMeter(file, CPU, 1).of(ENERGY, block, TOKENS)
    whole = file.read_text()
    file.write_text(whole[:-20])
    assert BlockMeter(file, CPU, 1).of(ENERGY, block, TOKENS) == 2
    assert BlockMeter(file, CPU, 1).of(ENERGY, block, TOKENS) == 2


def test_sums_are_the_same_wherever_a_table_is_made(tmp_path: Path) -> None:
    meter = BlockMeter(tmp_path / "table.jsonl", CPU, 1)
    space = make_space()
    costs = CostTable(space, meter)
    costs.measured()
    guide = space.guide_architecture()
    assert guide is not None
    by_hand = sum(
        meter.numbers[measurement_id(ENERGY, part, inlet)]
        for part, inlet in zip(space.guide.parts, space.guide.boundaries, strict=False)
    )
    assert costs.of(guide)["energy_mj"] == costs.of_parts()["energy_mj"] == by_hand
    saved = BlockMeasurements(costs.measurements or {})
    count = len(CALLS)
    workshop = Workshop(make_space(), CPU, None, saved)
    converted = result_of(workshop.convert(guide, 0))
    assert converted.evaluation.cost["energy_mj"] == by_hand
    # One measurement of the whole network is all that was added.
    assert CALLS[count:] == [len(space.guide)]
    assert converted.evaluation.metrics["energy_mj_whole"] == count + 1


def test_without_measurements_the_cost_is_left_out_and_said_so() -> None:
    costs = CostTable(make_space())
    assert costs.names == ("macs", "params")
    assert "energy_mj" not in costs.of_parts().known()
    assert costs.uncountable() == costs.unmeetable() == costs.without_logarithm() == []
    with pytest.raises(ValueError, match="known have a range: macs, params, not energy_mj"):
        costs.range("energy_mj")
    assert not CALLS


def test_a_saved_table_without_a_block_says_what_to_do() -> None:
    costs = CostTable(make_space(), BlockMeasurements({}))
    with pytest.raises(CostError, match="has not been measured; continue the search with 'nas-th"):
        costs.of_parts()


def test_whole_networks_are_measured_beside_sums() -> None:
    space = make_space()
    found = measured_costs(space, space.guide, CPU, 1, list(space.guide.parts))
    assert found.costs == {} and found.beside == {"energy_mj_whole": 1}
    assert CALLS == [4]
    assert measured_costs(space, space.guide, CPU, 1).beside == {}


@dataclass(frozen=True)
class Wrong(Energy):
    found: object = None

    def measure_blocks(self, *_: object) -> float:
        if isinstance(self.found, Exception):
            raise self.found
        return self.found  # type: ignore[return-value]


@pytest.mark.parametrize("value", [float("nan"), -1, None, "3", True])
def test_what_is_no_number_of_at_least_0_is_refused(value: object) -> None:
    with pytest.raises(CostError, match=r"energy_mj of Linear .*Wrong.measure_blocks must return"):
        measured_on_blocks(Wrong(found=value), [nn.Linear(1, 1)], TOKENS, CPU, 1)


def test_an_error_of_the_users_measure_is_named() -> None:
    with pytest.raises(CostError, match="Wrong failed with KeyError: 'battery'. Correct its"):
        measured_on_blocks(Wrong(found=KeyError("battery")), [nn.Linear(1, 1)], TOKENS, CPU, 1)
    with pytest.raises(CostError, match="^not here$"):
        measured_on_blocks(Wrong(found=CostError("not here")), [nn.Linear(1, 1)], TOKENS, CPU, 1)


class Unfinished:
    name, unit, direction, additive = "energy_mj", "mJ", "minimize", True

    def measure_blocks(self, blocks: object) -> float:
        return 1.0


def test_a_measure_of_blocks_needs_its_arguments() -> None:
    assert list(measure_mistakes(ENERGY)) == []
    (said,) = measure_mistakes(Unfinished())
    assert "count(module, inlet) or measure_blocks(blocks, inlet, device, threads)" in said


def test_a_gpu_that_is_not_there_is_refused(tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(CostError, match="torch sees none.*run it where the trials run"):
        BlockMeter(tmp_path / "table.jsonl", torch.device("cuda"))


def test_blocks_are_measured_as_if_the_rest_of_the_network_ran_between(tmp_path: Path) -> None:
    seen: list[int] = []

    @dataclass(frozen=True)
    class Around(Energy):
        def measure_blocks(self, *_: object) -> float:
            around = decoding._AROUND.get()
            seen.append(0 if around is None else around.nbytes)
            return 1.0

    wide = nn.Linear(100, 100, bias=False)
    guide, block = Guide([("wide", wide)], Boundary((100,))), nn.Linear(8, 8)
    alone = BlockMeter(tmp_path / "table.jsonl", CPU, 1)
    within = BlockMeter(tmp_path / "table.jsonl", CPU, 1, guide=guide)
    for meter in (alone, within):
        assert meter.of(Around(), block, TOKENS) == 1
    # Of 40,000 bytes, up to a power of two; and no longer afterwards.
    # That block, then the guide's part alone, and the guide as a whole without data around it.
    assert seen == [0, 2**16, 2**16, 0] and within.place.around == 2**16
    assert decoding._AROUND.get() is None
    assert "in a network of up to 65,536 bytes" in str(within.place)


def test_a_place_is_shown_with_all_it_consists_of() -> None:
    here = Place.here(CPU, 3)
    assert str(here) == f"{here.device} with 3 threads and torch {torch.__version__}"
    assert replace(here, threads=2) != here

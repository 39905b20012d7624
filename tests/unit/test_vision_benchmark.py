"""What the benchmark of vision networks plans, charges and compares; pruning by Torch-Pruning."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import asdict, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

pytest.importorskip("torch_pruning")
pytest.importorskip("efficientnet_lite_pytorch")

from PIL import Image

from benchmarks import vision_photographs
from benchmarks.vision import planned_fashion, planned_lite0
from benchmarks.vision_fashion import LEVELS, Cell
from benchmarks.vision_fashion_report import fashion_figures, searches, thirds
from benchmarks.vision_lite0 import Cell as Lite0Cell
from benchmarks.vision_photographs import Crops, split_of
from benchmarks.vision_pruning import prune
from benchmarks.vision_rates import (
    FASHION_RATES,
    LOW_TUNING_LEVEL,
    TUNING_LEVEL,
    TUNING_SEED,
    best_fashion_rate,
    fashion_front,
    fashion_rates,
)
from benchmarks.vision_report import latency_figures, lite0_figures
from nas_theseus.errors import LimitError
from nas_theseus.tasks import Batch
from nas_theseus.values.architecture import Boundary

INLET = Boundary((3, 8, 8))


def tuned(method: str, best: float = 3e-3) -> dict[Cell, dict[str, Any]]:
    """The tuning cells of a method, whose best rate is inside the grid."""
    return {
        Cell(method, level, rate, TUNING_SEED): {"validation": 0.9 if rate == best else 0.8}
        for level in (TUNING_LEVEL, LOW_TUNING_LEVEL)
        for rate in FASHION_RATES
    }


def trained(method: str, rate: float, test: float, **more: Any) -> dict[Cell, dict[str, Any]]:
    """One network a level, on the front by its quality."""
    guide = {"guide_test": 0.9, "guide_validation": 0.9, "guide_macs": 1000}
    return {
        (cell := Cell(method, level, rate)): {
            **asdict(cell),
            **guide,
            "validation": test + level / 100,
            "test": test + level / 100,
            "macs": round(1000 * level),
            "own_macs": 10,
            "once_macs": 5,
            **more,
        }
        for level in LEVELS
    }


def test_rates_go_on_while_the_best_one_is_at_the_edge() -> None:
    rows = tuned("ours", FASHION_RATES[-1])
    assert best_fashion_rate(rows, "ours") is None
    beyond = Cell("ours", TUNING_LEVEL, 2 * FASHION_RATES[-1], TUNING_SEED)
    low = replace(beyond, level=LOW_TUNING_LEVEL)
    assert [cell for cell in fashion_rates(rows, "ours") if cell not in rows] == [beyond, low]
    # A training that diverged has no quality, and ends the grid.
    rows[beyond] = {"failed": "diverged"}
    assert best_fashion_rate(rows, "ours") == FASHION_RATES[-1]
    assert best_fashion_rate(rows, "search") == FASHION_RATES[-1]


def test_small_networks_have_a_rate_of_their_own_and_a_chain_has_one() -> None:
    rows = tuned("taylor")
    low = Cell("taylor", LOW_TUNING_LEVEL, FASHION_RATES[0], TUNING_SEED)
    rows[low] = {"validation": 0.95}
    rows[replace(low, rate=FASHION_RATES[0] / 2)] = {"validation": 0.85}
    front = fashion_front(rows, "taylor", 1)
    assert front is not None and {cell.seed for cell in front} == {1}
    rates = {cell.level: cell.rate for cell in front}
    assert {level for level, rate in rates.items() if rate == FASHION_RATES[0]} == {
        level for level in LEVELS if level <= 0.2
    }
    # A chain is tuned by the mean over its networks, the largest first.
    cells = list(fashion_rates(rows, "taylor, chained"))
    assert [cell.level for cell in cells] == sorted(LEVELS, reverse=True) * len(FASHION_RATES)
    assert fashion_front(rows, "taylor, chained", 0) is None
    rows |= {cell: {"validation": 0.5 + cell.rate * cell.level} for cell in cells}
    assert {c.rate for c in fashion_front(rows, "taylor, chained", 0) or []} == {FASHION_RATES[-1]}


def test_fronts_follow_tuning() -> None:
    first = list(planned_fashion({}))
    assert {cell.seed for cell in first} == {TUNING_SEED}
    then = list(planned_fashion(tuned("taylor")))
    front = [cell for cell in then if cell.seed == 0]
    assert [cell.level for cell in front if cell.method == "taylor"] == list(LEVELS)
    assert {cell.rate for cell in front} == {3e-3}
    rows = tuned("taylor")
    rows |= {cell: {"validation": 0.5} for cell in fashion_rates(rows, "taylor, chained")}
    chained = [cell for cell in planned_fashion(rows) if cell.method == "taylor, chained"]
    front = [cell.level for cell in chained if cell.seed == 0]
    assert front == sorted(LEVELS, reverse=True)
    assert len(then) == len(set(then))


def test_lite0_is_tuned_before_other_budgets_are_trained() -> None:
    cells = list(planned_lite0({}))
    assert cells[0] == Lite0Cell("guide", 1.0, 0.0)
    assert len(cells) == len(set(cells))
    assert {cell.budget for cell in cells if cell.rate} == {0.6}
    assert {cell.budget for cell in cells if not cell.rate} == {0.4, 0.6, 0.8, 1.0}


def test_the_way_from_the_guide_is_charged_once() -> None:
    rows = tuned("taylor") | trained("taylor", 3e-3, 0.88)
    for cell in list(rows):
        if cell.seed == 0:
            rows[cell]["way_macs"] = round(100 * (1 - cell.level))
    (row,) = searches(rows)["taylor"]
    spent = [one["train_macs"] for one in row["trajectory"]]
    # 10 each, 5 once, and the longest way until then.
    ways = [max(round(100 * (1 - level)) for level in LEVELS[: n + 1]) for n in range(len(LEVELS))]
    assert spent == [5 + 10 * (n + 1) + way for n, way in enumerate(ways)]


def test_an_unfinished_seed_and_levels_out_of_reach() -> None:
    rows = tuned("ours") | trained("ours", 3e-3, 0.88)
    del rows[Cell("ours", LEVELS[-1], 3e-3)]
    assert searches(rows) == {}
    rows[Cell("ours", LEVELS[-1], 3e-3)] = {"failed": "no architecture keeps the limit"}
    assert len(searches(rows)["ours"][0]["trajectory"]) == len(LEVELS) - 1


def test_figures_compare_with_the_best_pruning_at_equal_compute() -> None:
    rows = tuned("ours") | tuned("taylor") | tuned("magnitude")
    rows |= trained("ours", 3e-3, 0.89) | trained("taylor", 3e-3, 0.88)
    rows |= trained("magnitude", 3e-3, 0.85)
    figures, notes = fashion_figures(rows)
    edges = [*sorted(LEVELS), 1.0]
    widths = [math.log10(high / low) for low, high in pairwise(edges)]
    areas = [
        sum((height + level / 100) * width for level, width in zip(edges, widths, strict=False))
        for height in (0.09, 0.08)
    ]
    assert figures["hypervolume_over_pruning"] == pytest.approx(areas[0] / areas[1])
    assert figures["worst_third_points"] == pytest.approx(1.0)
    assert notes["hypervolume_over_pruning"].startswith("over taylor at 0 G training MACs 1.1")
    assert figures["full_length_accuracy_quarter"] is None
    # What costs more than all of the rival's networks is not counted: the last levels of ours.
    for cell in trained("ours", 3e-3, 0.89):
        rows[cell]["own_macs"] = 20
    dearer, _ = fashion_figures(rows)
    some, all_ = dearer["hypervolume_over_pruning"], figures["hypervolume_over_pruning"]
    assert some is not None and all_ is not None and some < all_


def test_thirds_are_of_the_range_that_both_cover() -> None:
    def row(*points: tuple[float, float]) -> dict[str, Any]:
        made = [
            {"macs": macs, "validation": test, "test": test, "train_macs": 10 * (number + 1)}
            for number, (macs, test) in enumerate(points)
        ]
        return {"guide_macs": 1000, "trajectory": made}

    # Costs from 1 to 1000: thirds end at 10, 100 and 1000.
    ours = row((1, 0.8), (10, 0.85), (100, 0.9))
    other = row((1, 0.79), (10, 0.85), (100, 0.92))
    assert thirds([ours], [other]) == pytest.approx([1.0, 0.0, -2.0])
    assert thirds([ours], [other], 20) == pytest.approx([1.0, 0.0, 0.0])


def test_figures_without_cells() -> None:
    assert set(fashion_figures({})[0].values()) == {None}
    assert lite0_figures({})[0] == {
        "agreement_60_minus_pruning": None,
        "agreement_40_minus_pruning": None,
    }
    assert latency_figures([])[0] == {"latency_sum_error": None, "latency_tau": None}


def test_latencies_of_all_but_the_guide_are_the_figures() -> None:
    rows = [
        {"method": "ours", "whole_ms": whole, "sum_ms": summed}
        for whole, summed in ((10.0, 11.0), (5.0, 5.1), (2.0, 1.0))
    ] + [{"method": "guide", "whole_ms": 9.0, "sum_ms": 9.0}]
    figures, _ = latency_figures(rows)
    assert figures == pytest.approx({"latency_sum_error": 0.1, "latency_tau": 1.0})


def test_pictures_of_one_thing_are_in_one_split() -> None:
    folder = Path("animals")
    assert split_of(folder / "frog.png") == split_of(folder / "frog-1.png")
    counts = Counter(split_of(folder / f"animal{chr(97 + n % 26)}{n}x.png") for n in range(600))
    assert counts["train"] == pytest.approx(360, abs=60)
    assert counts["test"] == pytest.approx(150, abs=45)


def test_crops_are_the_same_every_time_and_of_different_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shades = {}
    for number in range(60):
        path = tmp_path / f"picture{chr(97 + number % 26)}{number}x.png"
        Image.new("RGBA", (70, 80), (number, number, number, 255)).save(path)
        shades[number] = split_of(path)
    monkeypatch.setattr(vision_photographs, "STAMPS", tmp_path)
    monkeypatch.setattr(vision_photographs, "sample_pictures", list)
    crops = Crops(16, 10, ((0.0,) * 3, (1.0,) * 3), train=80, validation=20, test=20)
    splits = crops.load()
    for split in ("train", "validation", "test"):
        inputs = splits.of(split).inputs  # type: ignore[arg-type,attr-defined]
        assert inputs.shape[1:] == (3, 16, 16) and inputs.dtype == torch.uint8
        assert {shades[int(shade)] for shade in inputs[:, 0, 0, 0]} == {split}
        again = crops.load().of(split).inputs  # type: ignore[arg-type,attr-defined]
        assert torch.equal(again, inputs)


def test_missing_stamps_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vision_photographs, "STAMPS", tmp_path / "none")
    with pytest.raises(SystemExit, match="apt-get install tuxpaint-stamps-default"):
        Crops(16, 10, ((0.0,) * 3, (1.0,) * 3)).load()


def small() -> nn.Module:
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1),
        nn.BatchNorm2d(32),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )
    for norm in (network[1], network[4]):
        nn.init.uniform_(norm.weight, 0.1, 2.0)  # equal scales rank no channel
    return network


def loss(network: nn.Module, batch: Batch, first: bool) -> torch.Tensor:
    return network(batch.inputs).square().mean() * (1 + first)


@pytest.mark.parametrize("importance", ["magnitude", "taylor", "bn_scale"])
def test_pruning_ends_below_the_limit_and_leaves_the_guide(importance: str) -> None:
    guide = small()
    before = {name: tensor.clone() for name, tensor in guide.state_dict().items()}
    # 64 positions of 27 · 32 and 288 · 32 weights, and 160 of the last layer.
    whole = 64 * (27 * 32 + 288 * 32) + 160
    batch = Batch(torch.randn(4, 3, 8, 8), torch.zeros(4), None)
    found = prune(guide, INLET, importance, whole // 2, lambda: [batch], loss)
    assert 0.4 * whole < found.macs <= whole // 2
    assert found.network(batch.inputs).shape == (4, 5)
    assert (found.prune_macs > 0) == (importance == "taylor")
    after = guide.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_limit_out_of_reach_is_told() -> None:
    with pytest.raises(LimitError, match="as far as it goes"):
        prune(small(), INLET, "magnitude", 10)

"""Axes in plain words, with units and ticks that people read."""

from __future__ import annotations

import pytest
from matplotlib.figure import Figure

from nas_theseus.pictures.axes import for_plotly, format_axis, label, words
from nas_theseus.values.goals import Objective


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("val_accuracy", "validation accuracy, %"),
        ("test_mean_iou", "test mean iou, %"),
        ("val_perplexity", "validation perplexity"),
        ("macs", "multiply-adds, MACs"),
        ("latency_ms", "latency, ms"),
        ("peak_memory_bytes", "peak memory, bytes"),
        ("energy_mj", "energy, mJ"),
        ("ms", "ms"),
        ("my_cost", "my cost"),
    ],
)
def test_names_become_words(name: str, said: str) -> None:
    assert words(name) == said


def test_an_axis_says_which_way_is_better_and_shortens_its_ticks() -> None:
    macs, accuracy = Objective("macs", "minimize", log=True), Objective("val_accuracy", "maximize")
    assert label(macs) == "multiply-adds, MACs (less is better)"
    assert for_plotly(macs) == {"title": label(macs), "type": "log", "tickformat": ".3~s"}
    assert for_plotly(accuracy)["tickformat"] == ".2~%"


@pytest.mark.parametrize(
    ("name", "log", "values", "ticks"),
    [
        ("macs", True, [200e3, 900e3], {"200k", "500k"}),
        ("macs", True, [52e3, 2.5e6], {"50k", "100k", "2M"}),
        ("macs", True, [1e6, 1e9], {"1M", "10M", "100M", "1G"}),
        ("val_accuracy", False, [0.5, 1.0], {"50%", "60%"}),
        ("latency_ms", False, [1.0, 3.0], {"1", "2"}),
    ],
)
def test_ticks_in_print(name: str, log: bool, values: list[float], ticks: set[str]) -> None:
    axes = Figure().add_subplot()
    axes.plot(values, values)
    axes.set_xscale("log" if log else "linear")
    format_axis(axes.xaxis, Objective(name, "minimize", log), values)
    shown = {text.get_text() for text in axes.get_xticklabels()}
    assert ticks <= shown, shown

"""Axes of plots in plain words, with units, from the names of metrics and costs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from matplotlib.axis import Axis
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter, PercentFormatter

from nas_theseus.values.goals import Objective

_WORDS = {
    "macs": "multiply-adds, MACs",
    "params": "parameters",
    "weight_bytes": "size of the weights, bytes",
    "kv_cache_bytes": "key-value cache, bytes",
}
_SPLITS = {"val": "validation", "test": "test", "train": "training"}
# Units that names of costs end in.
_UNITS = {"ms": "ms", "s": "s", "bytes": "bytes", "mb": "MB", "j": "J", "mj": "mJ", "w": "W"}
# Metrics that are shares of 1.
_SHARES = ("accuracy", "top5_accuracy", "f1", "mean_iou", "agreement")
# Ticks of a log axis whose values are within this factor of each other, as multiples of powers of
# ten; a wider one has powers of ten alone.
_BETWEEN = ((10, (1, 1.5, 2, 3, 5, 7)), (100, (1, 2, 5)))


def words(name: str) -> str:
    """A metric or cost in plain words: ``val_accuracy`` as ``validation accuracy, %``."""
    if name in _WORDS:
        return _WORDS[name]
    split, _, metric = name.partition("_")
    if split in _SPLITS and metric:
        text = f"{_SPLITS[split]} {metric.replace('_', ' ')}"
        return f"{text}, %" if is_share(name) else text
    quantity, _, unit = name.rpartition("_")
    if quantity and unit in _UNITS:
        return f"{quantity.replace('_', ' ')}, {_UNITS[unit]}"
    return name.replace("_", " ")


def label(objective: Objective) -> str:
    """What stands along an axis: the objective in words, and which way is better."""
    better = "more is better" if objective.direction == "maximize" else "less is better"
    return f"{words(objective.name)} ({better})"


def is_share(name: str) -> bool:
    """Whether a metric is a share of 1, which is shown in percent."""
    split, _, metric = name.partition("_")
    return split in _SPLITS and metric in _SHARES


def for_plotly(objective: Objective) -> dict[str, Any]:
    """Title, scale and tick format of an axis in plotly: 2 M for 2,000,000, 93 % for 0.93."""
    return {
        "title": label(objective),
        "type": "log" if objective.log else "linear",
        "tickformat": ".2~%" if is_share(objective.name) else ".3~s",
    }


def format_axis(axis: Axis, objective: Objective, values: Sequence[float]) -> None:
    """The same for an axis in matplotlib, whose scale is already set.

    Args:
        values: what is drawn along the axis.
    """
    axis.set_label_text(label(objective))
    if is_share(objective.name):
        axis.set_major_formatter(PercentFormatter(1))
        return
    axis.set_major_formatter(EngFormatter(sep=""))
    if not objective.log:
        return
    axis.set_minor_formatter(NullFormatter())
    factor = max(values) / min(values) if values else 1.0
    multiples = next((several for most, several in _BETWEEN if factor < most), None)
    if multiples is not None:
        axis.set_major_locator(LogLocator(subs=multiples))

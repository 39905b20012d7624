"""Predicted against measured quality: what the estimate says of networks that it was not given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import plotly.graph_objects as go  # type: ignore[import-untyped]
from scipy.stats import kendalltau  # type: ignore[import-untyped]

from nas_theseus.estimate.additive import AdditiveEstimate, as_learnt, as_measured
from nas_theseus.estimate.rungs import RungRecord
from nas_theseus.pictures.page import Paragraph, Piece, Plot, Table
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation

# As many as the sampler waits for before its estimate decides.
LEAST = 8
# With more, learning the estimate several times would take longer than a minute.
MOST = 150
_GROUPS = 5


@dataclass(frozen=True)
class Predicted:
    """One evaluation, and what was predicted of it from the others.

    Attributes:
        quality, deviation: mean and standard deviation, in units of the metric.
        at_rungs: final quality as each rung predicts it, by rung.
    """

    evaluation: Evaluation
    quality: float
    deviation: float
    at_rungs: Mapping[str, float] = field(default_factory=dict)


def predictions(records: Records, quality: Objective) -> list[Predicted]:
    """Evaluations as predicted from the others, in five groups that are left out in turn.

    Of many evaluations, the newest `MOST` are taken. The order of the groups is that of the
    architectures' ids, so that it is always the same.
    """
    ordered = sorted(records.evaluations[-MOST:], key=lambda one: one.name)
    found = []
    for group in range(min(_GROUPS, len(ordered))):
        left_out = ordered[group::_GROUPS]
        rest = [one for number, one in enumerate(ordered) if number % _GROUPS != group]
        estimate = AdditiveEstimate(ordered[0].architecture.stop)
        rungs = RungRecord(records.rungs, records.goals, records.begun.constraints)
        for one in rest:
            estimate.update(one.architecture, as_learnt(one.value(quality.name), quality))
            rungs.take(one, finished=True)
        means, deviations = estimate.predict([one.architecture for one in left_out])
        for one, mean, deviation in zip(left_out, means, deviations, strict=True):
            expected = as_measured(float(mean), quality)
            # Minimised values are learnt as logarithms: deviations are shares of them.
            unit = 1.0 if quality.direction == "maximize" else expected
            reached = {
                name: rungs.predict(one, name)
                for name, rung in rungs.rungs.items()
                if rung.quality(one) is not None
            }
            found.append(Predicted(one, expected, unit * float(deviation), reached))
    return sorted(found, key=lambda each: each.evaluation.name)


def write(records: Records) -> Sequence[Piece]:
    """A plot and a table, with τ and the share of values within two standard deviations."""
    quality = records.quality
    if quality is None or len(records.evaluations) < LEAST:
        there = f"{len(records.evaluations)} have finished"
        reason = "no objective is a quality" if quality is None else there
        return [Paragraph(f"Predictions need {LEAST} finished candidates; {reason}.")]
    found = predictions(records, quality)
    measured = [one.evaluation.value(quality.name) for one in found]
    expected = [one.quality for one in found]
    tau = float(kendalltau(measured, expected).statistic)
    inside = sum(
        abs(one.quality - value) <= 2 * one.deviation
        for one, value in zip(found, measured, strict=True)
    )
    figure = go.Figure(
        go.Scatter(
            x=expected,
            y=measured,
            error_x={"array": [one.deviation for one in found], "thickness": 1},
            mode="markers",
            marker={"color": "#c2410c"},
            name="networks",
        )
    )
    ends = [min(*measured, *expected), max(*measured, *expected)]
    figure.add_trace(go.Scatter(x=ends, y=ends, mode="lines", line={"dash": "dot"}, name="equal"))
    figure.update_xaxes(title=f"predicted {quality.name}")
    figure.update_yaxes(title=f"measured {quality.name}")
    names = [rung.name for rung in records.rungs]
    newest = f"Only the newest {MOST} are compared. " if len(records.evaluations) > MOST else ""
    rows = [
        [
            one.evaluation.architecture.id,
            number(value),
            f"{number(one.quality)} ± {number(one.deviation)}",
            *(number(one.at_rungs.get(name)) for name in names),
        ]
        for one, value in zip(found, measured, strict=True)
    ]
    return [
        Paragraph(
            "The search's estimate adds up what each block does to quality. Here it predicts each "
            "network from the others, in five groups that are left out in turn; the scores of the "
            "library's blocks, which the search knows too, are not used. "
            f"Kendall's τ between predicted and measured {quality.name} is {tau:.2f}; "
            f"{inside} of {len(found)} values are within two standard deviations. {newest}"
            "What the rungs predict of the end is in the table as well."
        ),
        Plot(figure, "Predicted and measured quality; numbers in the table."),
        Table(
            "Predicted and measured quality",
            ["network", "measured", "estimate", *(f"from {name}" for name in names)],
            rows,
        ),
    ]


MEMBER = Section("Predicted and measured quality", 100, write)

"""For each of several budgets, the member of the front to take, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nas_theseus.estimate.spread import LEVEL, chance_of_difference
from nas_theseus.pictures.page import Cell, Link, Paragraph, Piece, Table
from nas_theseus.searches.figures import number
from nas_theseus.searches.records import Records
from nas_theseus.searches.section import Section, network_anchor
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Evaluation, FrontMember

# Budgets as shares of the guide's cost.
SHARES = (1.0, 0.75, 0.5, 0.35, 0.25, 0.1)
_MACS = Objective("macs", "minimize", log=True)


@dataclass(frozen=True)
class Choice:
    """What to take within one budget.

    Attributes:
        limit: the budget, in units of the cost.
        best: the front member of the best quality within it; None if there is none.
        second: the next best evaluated network within it; None if there is none.
    """

    share: float
    limit: float
    best: FrontMember | None
    second: Evaluation | None


def choices(records: Records, quality: Objective, cost: Objective) -> list[Choice]:
    """What to take within each budget on one cost, the largest budget first."""
    whole = records.guide.get(cost.name)
    if whole is None:
        whole = max(one.value(cost.name) for one in records.evaluations)
    sign = 1 if quality.direction == "maximize" else -1

    def order(one: Evaluation) -> tuple[float, float, str]:
        return -sign * one.value(quality.name), one.value(cost.name), one.name

    found = []
    for share in SHARES:
        limit = share * whole
        within = [m for m in records.members if m.evaluation.value(cost.name) <= limit]
        best = min(within, key=lambda member: order(member.evaluation), default=None)
        others = [
            one
            for one in records.feasible
            if one.value(cost.name) <= limit and (best is None or one.name != best.evaluation.name)
        ]
        found.append(Choice(share, limit, best, min(others, key=order, default=None)))
    return found


def write(records: Records) -> Sequence[Piece]:
    """One table a cost."""
    quality = records.quality
    if not records.members or quality is None:
        missing = "quality among its objectives" if quality is None else "network to take yet"
        return [Paragraph(f"This search has no {missing}.")]
    costs = [cost for cost in records.costs if cost.direction == "minimize"] or [_MACS]
    whose = "the guide's" if records.guide else "those of the most expensive evaluated network"
    pieces: list[Piece] = [
        Paragraph(
            f"Budgets are shares of {whose}. Within each budget, this is the network of the front "
            f"with the best {quality.name}. The last column compares it with the second best "
            "network within the same budget."
        )
    ]
    for cost in costs:
        rows = [_row(records, choice, quality, cost) for choice in choices(records, quality, cost)]
        columns = ["budget", "take", cost.name, quality.name, "test", "how sure"]
        pieces.append(Table(f"By {cost.name}", columns, rows))
    pieces.append(
        Paragraph(
            "The search trained each network once, with one seed; another seed may change small "
            f"differences. To see which are real: nas-theseus front {records.folder.name} "
            f"--repeats 5, then this report again. For other budgets: nas-theseus front "
            f"{records.folder.name} --at BUDGET."
        )
    )
    return pieces


def _row(records: Records, choice: Choice, quality: Objective, cost: Objective) -> list[Cell]:
    budget = f"{choice.share:.0%} ({number(choice.limit)})"
    if choice.best is None:
        cheapest = min(records.members, key=lambda one: one.evaluation.value(cost.name))
        least = number(cheapest.evaluation.value(cost.name))
        return [budget, "none", "–", "–", "–", f"the cheapest of the front has {least}"]
    best = choice.best.evaluation
    name = best.architecture.id
    test = choice.best.test.get(quality.name.replace("val_", "test_", 1))
    return [
        budget,
        Link(name, network_anchor(name)),
        number(best.value(cost.name)),
        number(best.value(quality.name)),
        number(test),
        _how_sure(records, choice, best, quality.name),
    ]


def _how_sure(records: Records, choice: Choice, best: Evaluation, quality: str) -> str:
    """The lead over the second best: by other seeds, or in standard errors, if either is known."""
    if choice.second is None:
        return "the only one within this budget"
    there, here = choice.second.value(quality), best.value(quality)
    lead = f"ahead of {choice.second.architecture.id} by {number(abs(here - there))}"
    ids = best.architecture.id, choice.second.architecture.id
    seeds = [records.spreads[each] for each in ids if each in records.spreads]
    if len(seeds) == 2:
        by_chance = chance_of_difference(*seeds)
        verdict = "more than chance" if by_chance < LEVEL else "within chance"
        return (
            f"{lead}; with other seeds {seeds[0]} and {seeds[1]}: {verdict} (p = {by_chance:.2g})"
        )
    error = standard_error(records, quality, here, there)
    if error is None:
        return f"{lead}; how much of this is chance is not recorded"
    if abs(here - there) < error:
        return f"{lead}: within chance, either may be better"
    if abs(here - there) < 2 * error:
        return f"{lead}: probably better"
    return f"{lead}: more than chance"


def standard_error(records: Records, quality: str, one: float, other: float) -> float | None:
    """Of the difference of two accuracies, as if on different examples; None for other metrics."""
    examples = 0 if records.basis is None else records.basis.examples
    if not examples or not quality.endswith("accuracy"):
        return None
    return math.sqrt((one * (1 - one) + other * (1 - other)) / examples)


MEMBER = Section("Which network to take", 20, write)

"""How well block scores rank networks: sums of them against full training of 40 networks.

The networks and their full trainings are the cells of `search_cost --tau`, which ran before. Here
the guide is trained again, their blocks are converted and scored, and Kendall's τ is taken between
the sums and each full training's validation accuracy.

    python -m benchmarks.ranking
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from scipy.stats import kendalltau  # type: ignore[import-untyped]

from benchmarks.cells import finished
from benchmarks.record import RESULTS, figure_table, write_record
from benchmarks.search_cost_regimes import CPU, REGIMES, prepared, workshop
from benchmarks.search_cost_tau import TauCell
from nas_theseus.candidate.workshop import Workshop
from nas_theseus.conversion.divergence import ReplaceOne
from nas_theseus.estimate.additive import AdditiveEstimate
from nas_theseus.estimate.block_scores import as_prior, capacities
from nas_theseus.library.block_conversion import convert_block, load_into
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.record import Facts
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.recipe import Recipe

TAU = RESULTS / "search_cost_tau.jsonl"
EXAMPLES = (32, 64, 128, 256, 512)
OTHERS = (4, 8, 16)
Errors = Mapping[BlockChoice, float]


@dataclass(frozen=True)
class Scored:
    """A converted block.

    Attributes:
        facts: its record, with the divergence on the recipe's number of examples.
        divergences: on other numbers of examples.
        seconds: of the divergence alone.
    """

    facts: Facts
    divergences: Mapping[int, float]
    seconds: float


def score_blocks(
    shop: Workshop, architectures: Sequence[Architecture]
) -> dict[BlockChoice, Scored]:
    """Every block of the architectures, converted and scored."""
    space, keys = shop.space, BlockKeys(shop.space)
    others = {count: ReplaceOne(space.guide, space.task, count, CPU) for count in EXAMPLES}
    found: dict[BlockChoice, Scored] = {}
    for one in architectures:
        for choice, key in zip(one.choices, keys.of_blocks(one), strict=True):
            if key is None or choice in found:
                continue
            state, facts = convert_block(space, key, shop.activations, shop.replacing)
            made = space.build(choice).eval()
            load_into(made, state)
            values = {count: one.divergence(made, key.span) for count, one in others.items()}
            assert shop.replacing is not None
            began = time.perf_counter()
            shop.replacing.divergence(made, key.span)
            found[choice] = Scored(facts, values, time.perf_counter() - began)
    return found


class Ranking:
    """Kendall's τ of what predicts quality with two full trainings of the same networks."""

    def __init__(self, rows: Sequence[Mapping[str, Any]]) -> None:
        self.architectures = [Architecture.from_json(row["choices"]) for row in rows]
        self.full = [[row["full"][seed]["validation"] for row in rows] for seed in (0, 1)]

    @property
    def ceiling(self) -> float:
        """τ between the two full trainings."""
        return float(kendalltau(*self.full).statistic)

    def tau(self, values: Sequence[float]) -> float:
        """The mean over both full trainings."""
        return statistics.fmean(float(kendalltau(values, one).statistic) for one in self.full)

    def of_sums(self, errors: Errors) -> float:
        """τ of the sums of block errors, less is better; a kept part has none."""
        return self.tau([-sum(errors.get(c, 0.0) for c in a.choices) for a in self.architectures])

    def learnt(
        self, errors: Errors, capable: Errors | None = None, others: int | None = None
    ) -> float:
        """τ of the estimate of each network that knows block scores and the others' training.

        Args:
            capable: capacities of the blocks. Default: not known.
            others: number of other networks, drawn at random. Default: all.
        """
        kept_parts = {c: 0.0 for a in self.architectures for c in a.choices if c.block == "keep"}
        known = {**as_prior(errors), **kept_parts} if errors else None
        draw, values = random.Random(0), []
        for left_out, architecture in enumerate(self.architectures):
            estimate = AdditiveEstimate(architecture.stop, known, capacities=capable)
            rest = [index for index in range(len(self.architectures)) if index != left_out]
            for index in draw.sample(rest, len(rest) if others is None else others):
                estimate.update(self.architectures[index], self.full[0][index])
            values.append(float(estimate.predict([architecture])[0][0]))
        return self.tau(values)


def figures_of(
    ranking: Ranking,
    scored: Mapping[BlockChoice, Scored],
    macs: Sequence[float],
    capable: Errors,
) -> dict[str, float | int | None]:
    """All figures."""

    def errors(fact: Callable[[Scored], float]) -> Errors:
        return {choice: fact(one) for choice, one in scored.items()}

    def contribution(one: Scored) -> float:
        known = one.facts.contribution_error
        return one.facts.residual if known is None else known

    residual = errors(lambda one: one.facts.residual)
    divergence = errors(lambda one: one.facts.divergence or 0.0)
    spent = [one.facts for one in scored.values()]
    conversion = sum(facts.macs - facts.divergence_macs for facts in spent)
    seconds = sum(one.seconds for one in scored.values())
    return {
        "tau_divergence": ranking.of_sums(divergence),
        "tau_residual": ranking.of_sums(residual),
        "tau_contribution_error": ranking.of_sums(errors(contribution)),
        "tau_capacity": ranking.of_sums({choice: -one for choice, one in capable.items()}),
        "tau_prior": ranking.learnt(divergence, capable, others=0),
        "tau_macs": ranking.tau(macs),
        "tau_learnt": ranking.learnt(divergence, capable),
        "tau_learnt_divergence": ranking.learnt(divergence),
        "tau_learnt_residual": ranking.learnt(residual),
        "tau_learnt_capacity": ranking.learnt({}, capable),
        "tau_learnt_alone": ranking.learnt({}),
        **{
            f"tau_learnt_{name}of_{count}": ranking.learnt(divergence, known, others=count)
            for count in OTHERS
            for name, known in (("", capable), ("divergence_", None))
        },
        "tau_ceiling": ranking.ceiling,
        **{
            f"tau_divergence_{count}_examples": ranking.of_sums(
                errors(lambda one, count=count: one.divergences[count])  # type: ignore[misc]
            )
            for count in EXAMPLES
        },
        "divergence_macs_over_conversion": sum(f.divergence_macs for f in spent) / conversion,
        "divergence_seconds_over_conversion": seconds / (sum(f.seconds for f in spent) - seconds),
        "blocks": len(scored),
        "networks": len(ranking.architectures),
    }


NOTES = {
    "tau_divergence": "sums of block scores against full training, mean over two full trainings",
    "tau_contribution_error": "the residual where a block's shapes differ",
    "tau_capacity": "sums of what blocks can learn (estimate.block_scores.capacities)",
    "tau_prior": "the estimate's expectation before any training: divergence and capacity",
    "tau_learnt": "the estimate that also knows the other networks' training",
    "tau_learnt_divergence": "the same with divergences alone, and so on",
    "tau_learnt_of_8": "the same with 8 of the other networks",
    "networks": "trained by search_cost --tau at an earlier commit; the guide was trained again",
}


def main() -> None:
    """Score the blocks, print and keep the figures."""
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    rows = list(finished(TAU, TauCell).values())
    first = rows[0]
    recipe = Recipe.model_validate_json(first["recipe"])
    sizes = replace(REGIMES[first["regime"]], images=first["images"], epochs=first["epochs"])
    shop = workshop(prepared(sizes, recipe))
    ranking = Ranking(rows)
    scored = score_blocks(shop, ranking.architectures)
    macs = [row["macs"] for row in rows]
    figures = figures_of(ranking, scored, macs, capacities(shop.space, shop.costs))
    # What the recorded conversions and these have in common.
    differences = [
        abs(error - scored[choice].facts.residual)
        for row, one in zip(rows, ranking.architectures, strict=True)
        for choice, error in zip(one.choices, row["errors"], strict=True)
        if choice in scored and scored[choice].facts.steps
    ]
    figures["largest_difference_of_residuals"] = max(differences)
    notes = {
        **NOTES,
        "largest_difference_of_residuals": "between the recorded blocks and those converted here",
    }
    cells = [
        {
            "block": str(choice),
            "span": [choice.span.start, choice.span.stop],
            "residual": one.facts.residual,
            "contribution_error": one.facts.contribution_error,
            "divergence": one.facts.divergence,
        }
        for choice, one in scored.items()
    ]
    write_record("ranking", figures, cells, [0, 1], notes, packages=("torch", "scipy"))
    print("\n".join(figure_table(figures, notes)))


if __name__ == "__main__":
    main()

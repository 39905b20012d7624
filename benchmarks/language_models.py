"""Language models: SmolLM2-135M to smaller budgets, against depth and width pruning.

    python -m benchmarks.language_models library   # convert and score all blocks, resumable
    python -m benchmarks.language_models cells     # choose, measure, train; each cell is kept
    python -m benchmarks.language_models report    # the table and figures

All methods share calibration tokens, training tokens, loss and code. Choices and rates are made on
validation plays, and everything reported is measured on test plays. Budgets are shares of the
multiply-adds outside the embedding and the head.
"""

from __future__ import annotations

import argparse
import math
import random
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cells import Row, append, finished
from benchmarks.record import RESULTS, figure_table, write_record
from nas_theseus.blocks import (
    AttentionToLinear,
    FewerHeads,
    Keep,
    LinearPart,
    NarrowMLP,
    SkipPart,
    choice,
)
from nas_theseus.candidate.workshop import Workshop
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.block_scores import best_by_score
from nas_theseus.library.block_conversion import load_into
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Constraint
from nas_theseus.values.recipe import Recipe

SPACE = Path(__file__).parents[1] / "search_spaces" / "smollm2.py"
CELLS = RESULTS / "language_models_cells.jsonl"
RATES = (1e-4, 3e-4, 1e-3)
STEPS = 40
RANDOM = 4
# Sequences of 128 tokens on which a network is measured.
SEQUENCES = {"validation": 32, "test": 96}
# "linear" may take linear-time attention as well, and has to meet this share of the guide's cache.
CACHE, LINEAR = 0.4, "attention_to_linear"
KINDS = {
    "ours": "divergence",
    "linear": "divergence",
    "contribution": "contribution_error",
    "residual": "residual",
}
RIVALRY = ("ours", "width", "depth")


@dataclass(frozen=True)
class Cell:
    """One network: a method's choice at a budget, trained with a rate (0: not trained)."""

    method: str
    budget: float
    rate: float
    seed: int = 0


@dataclass
class Bench:
    """The guide, its library and the measures, shared by all cells.

    Attributes:
        folder: where the library and the guide's activations are kept.
    """

    folder: Path
    _states: dict[str, Tensor] = field(init=False, default_factory=dict)

    @cached_property
    def shop(self) -> Workshop:
        """The workshop of the space with the blocks of this benchmark."""
        space = load_space(SPACE)
        attention = [name for name in space.guide.names if name.startswith("attention")]
        mlp = [name for name in space.guide.names if name.startswith("mlp")]
        blocks = [
            Keep(),
            NarrowMLP(keep=choice(0.75, 0.5, 0.25, 0.125)).on(*mlp),
            FewerHeads(keep=choice(0.67, 0.33)).on(*attention),
            AttentionToLinear(window=16, slots=32).on(*attention),
            LinearPart().on(*attention),
            SkipPart().on(*attention, *mlp),
        ]
        recipe = space.recipe.model_copy(update={"divergence_examples": 10})
        # The limit has the cache counted; it excludes nothing.
        limit = "kv_cache_bytes <= 1e12"
        space = replace(space, blocks=blocks, recipe=recipe, constraints=[limit])
        return self.shop_of(space)

    def shop_of(self, space: SearchSpace) -> Workshop:
        """A workshop; the guide's activations are in files that all workshops share."""
        return Workshop(space, torch.device("cpu"), self.folder / "guide-work")

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.shop.space

    @cached_property
    def library(self) -> Library:
        """Where converted blocks are kept."""
        return Library(str(self.folder / "library"))

    def choices(self) -> Iterator[BlockChoice]:
        """Every block that has to be converted."""
        for span, share in self.space.fitting:
            for one in self.space.choices(span, share):
                if not self.space.families[one.block].keeps:
                    yield one

    @cached_property
    def facts(self) -> dict[BlockChoice, Facts]:
        """The records of all blocks.

        Raises:
            SystemExit: a block is missing.
        """
        keys = {one: self.shop.keys(self.space.recipe).of(one, 1.0) for one in self.choices()}
        records = self.library.records(keys.values())
        missing = [one for one, key in keys.items() if key.id not in records]
        if missing:
            raise SystemExit(f"{len(missing)} blocks are missing: run the step library first")
        return {one: records[key.id].facts for one, key in keys.items()}

    @cached_property
    def costs(self) -> CostTable:
        """Multiply-adds of all blocks."""
        return self.shop.costs

    def limit(self, budget: float) -> int:
        """Multiply-adds of a whole network at a budget."""
        parts = self.costs.part_macs
        outside = parts[0] + parts[-1]
        return int(outside + budget * (sum(parts) - outside))

    # Methods' choices.

    def choose(self, method: str, budget: float) -> tuple[SearchSpace, Architecture]:
        """The network that a method takes at a budget, within 2 % of its multiply-adds."""
        if method == "width":
            return self._width(budget)
        if method == "depth":
            return self.space, self._depth(budget)
        if method.startswith("random"):
            return self.space, self._random(budget, int(method.removeprefix("random")))
        limits = [Constraint("macs", "<=", self.limit(budget))]
        linear = method == "linear"
        if linear:
            cache = self.costs.of(self._with({}))["kv_cache_bytes"]
            limits.append(Constraint("kv_cache_bytes", "<=", CACHE * cache))
        scores = {
            one: float(getattr(facts, KINDS[method]))
            for one, facts in self.facts.items()
            if linear or one.block != LINEAR
        }
        return self.space, best_by_score(self.space, self.costs, scores, limits)

    def _depth(self, budget: float) -> Architecture:
        """Leave out whole layers of the least block influence, and half of one more if it fits.

        Source: ShortGPT, arXiv:2403.03853, 1 − cosine of a layer's input and output.
        """
        layers = (len(self.space.guide) - 2) // 2
        influence = {layer: self._influence(layer) for layer in range(layers)}
        order = sorted(influence, key=lambda layer: influence[layer])
        skipped: set[int] = set()
        for layer in order:
            if self._macs(skipped) <= self.limit(budget) * 1.02:
                break
            for part in (2 * layer + 2, 2 * layer + 1):  # its MLP, then its attention
                if self._macs(skipped) > self.limit(budget):
                    skipped.add(part)
        return self._with(dict.fromkeys(skipped, "skip"))

    def _influence(self, layer: int) -> float:
        before, after = (self.shop.activations.at(2 * layer + 1 + n).float() for n in (0, 2))
        return float(1 - nn.functional.cosine_similarity(before, after, dim=-1).mean())

    def _macs(self, skipped: set[int]) -> int:
        return self.costs.of(self._with(dict.fromkeys(skipped, "skip"))).macs

    def _with(self, blocks: Mapping[int, str]) -> Architecture:
        return Architecture(
            tuple(
                BlockChoice(Span(i, i + 1), blocks.get(i, "keep"))
                for i in range(len(self.space.guide))
            )
        )

    def _width(self, budget: float) -> tuple[SearchSpace, Architecture]:
        """The same share of hidden units in every MLP, with all heads or two thirds of them.

        Of the two, the one with the lower divergence on validation before training. Units are
        chosen and maps refitted as in our blocks, which is more than Minitron does.
        """
        found = []
        for heads in (None, 0.67):
            share = self._share(budget, heads)
            if share is not None:
                space, architecture = self._uniform(share, heads)
                network = self.assemble(space, architecture)
                found.append((self.quality(network, "validation")["loss"], space, architecture))
        _, space, architecture = min(found, key=lambda one: one[0])
        return space, architecture

    def _uniform(self, share: float, heads: float | None) -> tuple[SearchSpace, Architecture]:
        names = self.space.guide.names
        attention = [name for name in names if name.startswith("attention")]
        mlp = [name for name in names if name.startswith("mlp")]
        blocks = [Keep(), NarrowMLP(keep=share).on(*mlp)]
        blocks += [FewerHeads(keep=heads).on(*attention)] if heads is not None else []
        space = replace(self.space, blocks=blocks)
        chosen = []
        for i, name in enumerate(names):
            block: tuple[str, tuple[tuple[str, float], ...]] = ("keep", ())
            if name.startswith("mlp"):
                block = ("narrow_mlp", (("keep", share),))
            elif heads is not None and name.startswith("attention"):
                block = ("fewer_heads", (("keep", heads),))
            chosen.append(BlockChoice(Span(i, i + 1), *block))
        return space, Architecture(tuple(chosen))

    def _share(self, budget: float, heads: float | None) -> float | None:
        """The share of hidden units that meets a budget; None if none does."""
        low, high = (
            CostTable(space).of(architecture).macs
            for space, architecture in (self._uniform(share, heads) for share in (0.125, 0.5))
        )
        slope = (high - low) / 0.375
        share = 0.125 + (self.limit(budget) - low) / slope
        return round(share, 4) if 0.02 < share < 0.98 else None

    def _random(self, budget: float, number: int) -> Architecture:
        """A random network of the library within 2 % of the budget's multiply-adds."""
        draw = random.Random(f"{budget} {number}")
        by_part: dict[int, list[BlockChoice]] = {}
        for span, share in self.space.fitting:
            by_part.setdefault(span.start, []).extend(self.space.choices(span, share))
        limit = self.limit(budget)
        while True:
            # A share of parts is kept, drawn anew, so that all budgets are reached.
            keeps = draw.random()
            choices = tuple(
                options[0] if len(options) == 1 or draw.random() < keeps else draw.choice(options)
                for _, options in sorted(by_part.items())
            )
            architecture = Architecture(choices)
            if 0.98 * limit <= self.costs.of(architecture).macs <= 1.02 * limit:
                return architecture

    # What is measured.

    def assemble(self, space: SearchSpace, architecture: Architecture) -> Target:
        """A network of library blocks; blocks that the library has not are converted first."""
        shop = self.shop if space is self.space else self.shop_of(space)
        target = assemble(space, architecture, 0)
        keys = shop.keys(space.recipe).of_blocks(architecture)
        for block, key in zip(target.blocks, keys, strict=True):
            if key is not None:
                load_into(block, shop.keep_block(key, self.library)[0].state)
        return target.eval()

    @torch.no_grad()
    def quality(self, network: nn.Module, split: Any) -> dict[str, float]:
        """Perplexity, and divergence from the guide, on the first sequences of a split."""
        network.eval()
        loss, divergence, count = 0.0, 0.0, 0
        head, task = self.space.guide.parts[-1], self.space.task
        batches = task.batches(split, 4, limit=SEQUENCES[split])
        for batch, states in zip(batches, self.states(split).split(4), strict=True):
            with bfloat16():
                outputs, teacher = network(batch.inputs).float(), head(states).float()
            loss += float(task.loss(outputs, batch.targets)) * len(batch.inputs)
            found = task.distillation(outputs, teacher, 1.0)
            divergence += float(found) * len(batch.inputs)
            count += len(batch.inputs)
        return {
            "loss": loss / count,
            "perplexity": math.exp(loss / count),
            "divergence": divergence / count,
        }

    @torch.no_grad()
    def states(self, split: Any) -> Tensor:
        """What the guide's head reads on the first sequences of a split, computed once."""
        if split not in self._states:
            last = len(self.space.guide) - 1
            batches = self.space.task.batches(split, 4, limit=SEQUENCES[split])
            with bfloat16():
                found = [self.space.guide.features(b.inputs, {last})[last] for b in batches]
            self._states[split] = torch.cat(found)
        return self._states[split]

    def run(self, cell: Cell) -> Row:
        """Choose, assemble, train and measure one network."""
        began = time.time()
        space, architecture = (
            (self.space, self._with({}))
            if cell.method == "guide"
            else self.choose(cell.method, cell.budget)
        )
        network = self.assemble(space, architecture)
        recipe = self.recipe(cell.rate)
        tokens = 0
        if cell.rate:
            network.thaw()
            for slice_ in train(
                network, space.task, recipe, cell.seed, teacher=self.shop.activations
            ):
                tokens += slice_.examples * space.task.inlet.shape[0]
        costs = CostTable(space).of(architecture)
        measured = {
            f"{split}_{name}": value
            for split in SEQUENCES
            for name, value in self.quality(network, split).items()
        }
        return {
            **asdict(cell),
            **measured,
            "macs": costs.macs,
            "macs_over_budget": costs.macs / self.limit(cell.budget),
            "params": costs["params"],
            "kv_cache_bytes": costs["kv_cache_bytes"],
            "tokens": tokens,
            "architecture": architecture.blocks,
            "seconds": time.time() - began,
            "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }

    def recipe(self, rate: float) -> Recipe:
        """The training of all methods."""
        return self.space.recipe.model_copy(
            update={
                "steps": STEPS,
                "learning_rate": rate or self.space.recipe.learning_rate,
                "precision": "bfloat16",
            }
        )


def bfloat16() -> torch.autocast:
    """Networks run in it; losses are computed in float32."""
    return torch.autocast("cpu", torch.bfloat16)


def convert_library(bench: Bench) -> None:
    """Convert and score all blocks; those of an earlier call are there."""
    choices = list(bench.choices())
    keys = bench.shop.keys(bench.space.recipe)
    began = time.time()
    for number, one in enumerate(choices, start=1):
        entry, made = bench.shop.keep_block(keys.of(one, 1.0), bench.library)
        if made is not None:
            facts = entry.record.facts
            name = bench.space.guide.names[one.span.start]
            print(
                f"{number}/{len(choices)} {name} {one}: divergence {facts.divergence:.4g}, "
                f"{facts.seconds:.1f} s, {(time.time() - began) / 60:.1f} min in all",
                flush=True,
            )


def planned(rows: Mapping[Cell, Row]) -> Iterator[Cell]:
    """The cells, most telling first. Rates are tuned at 60 %, each method's own on validation."""
    yield Cell("guide", 1.0, 0.0)
    for budget in (0.6, 0.4):
        for method in (*RIVALRY, "linear", "residual", "contribution"):
            yield Cell(method, budget, 0.0)
    for method in RIVALRY:
        for rate in RATES:
            yield Cell(method, 0.6, rate)
    yield from _tuned(rows, RIVALRY, 0.4)
    for number in range(RANDOM):
        yield Cell(f"random{number}", 0.6, 0.0)
    for method in RIVALRY:
        yield Cell(method, 0.8, 0.0)
    yield from _tuned(rows, RIVALRY, 0.8)
    for budget in (0.6, 0.4):
        yield from _tuned(rows, RIVALRY, budget, seed=1)
    for method in ("linear", "residual"):
        for rate in RATES:
            yield Cell(method, 0.6, rate)
        yield from _tuned(rows, (method,), 0.4)


def _tuned(
    rows: Mapping[Cell, Row], methods: Iterable[str], budget: float, seed: int = 0
) -> Iterator[Cell]:
    """The cells of methods whose rates are known."""
    for method in methods:
        if rate := best_rate(rows, method):
            yield Cell(method, budget, rate, seed)


def best_rate(rows: Mapping[Cell, Row], method: str) -> float | None:
    """The rate with the lowest validation loss of a method at 60 %."""
    tried = {cell.rate: row for cell, row in rows.items() if _tunes(cell, method)}
    if len(tried) < len(RATES):
        return None
    return min(tried, key=lambda rate: float(tried[rate]["validation_loss"]))


def _tunes(cell: Cell, method: str) -> bool:
    return cell.method == method and cell.budget == 0.6 and cell.rate > 0 and cell.seed == 0


def run_cells(bench: Bench, deadline: float) -> None:
    """Run the cells that are missing, one after the other."""
    while time.time() < deadline:
        rows = finished(CELLS, Cell)
        cell = next((one for one in planned(rows) if one not in rows), None)
        if cell is None:
            return
        row = bench.run(cell)
        append(CELLS, row)
        print(
            f"{cell}: test perplexity {row['test_perplexity']:.2f}, divergence "
            f"{row['test_divergence']:.3f}, {row['macs_over_budget']:.3f} of the budget, "
            f"{row['seconds']:.0f} s",
            flush=True,
        )


def figures_of(rows: Mapping[Cell, Row], bench: Bench) -> dict[str, float | None]:
    """The figures of the cells that are there; None where one is missing."""

    def perplexity(method: str, budget: float, trained: bool) -> float | None:
        rate = best_rate(rows, method) if trained else 0.0
        if rate is None:
            return None
        row = rows.get(Cell(method, budget, rate))
        return None if row is None else float(row["test_perplexity"])

    def ratio(a: float | None, b: float | None) -> float | None:
        return None if a is None or b is None else a / b

    guide = rows.get(Cell("guide", 1.0, 0.0))
    guides = None if guide is None else float(guide["test_perplexity"])
    found: dict[str, float | None] = {}
    for budget in (0.6, 0.4):
        percent = round(100 * budget)
        ours = perplexity("ours", budget, trained=True)
        for rival in ("depth", "width"):
            name = f"perplexity_over_{rival}_pruning_{percent}"
            found[name] = ratio(ours, perplexity(rival, budget, trained=True))
        untrained = perplexity("ours", budget, trained=False)
        found[f"perplexity_over_guide_{percent}_untrained"] = ratio(untrained, guides)
    drawn = [rows.get(Cell(f"random{n}", 0.6, 0.0)) for n in range(RANDOM)]
    known = [float(row["test_divergence"]) for row in drawn if row is not None]
    mine = rows.get(Cell("ours", 0.6, 0.0))
    found["divergence_over_random_60"] = (
        float(mine["test_divergence"]) / fmean(known) if mine and len(known) == RANDOM else None
    )
    found["peak_memory_gib"] = max(
        (float(row["peak_memory_gib"]) for row in rows.values()), default=None
    )
    found["library_minutes"] = sum(facts.seconds for facts in bench.facts.values()) / 60
    return found


def report(bench: Bench) -> None:
    """Write the record, and print the table."""
    rows = finished(CELLS, Cell)
    figures = figures_of(rows, bench)
    notes = {
        name: "its cells have not been run" for name, value in figures.items() if value is None
    }
    notes["tau_divergence_minus_tau_residual"] = "not measured here; see ranking.json for vision"
    write_record("language_models", figures, list(rows.values()), [0], notes)
    print("\n".join(figure_table(figures, notes)))


def main() -> None:
    """Run one step."""
    steps: dict[str, Callable[[Bench, float], None]] = {
        "library": lambda bench, _: convert_library(bench),
        "cells": run_cells,
        "report": lambda bench, _: report(bench),
    }
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("step", choices=steps)
    parser.add_argument("--folder", type=Path, default=Path("theseus/language_models"))
    parser.add_argument("--minutes", type=float, default=math.inf, help="begin no cell after this")
    options = parser.parse_args()
    steps[options.step](Bench(options.folder), time.time() + 60 * options.minutes)


if __name__ == "__main__":
    main()

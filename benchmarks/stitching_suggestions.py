"""Whether a search finds its front sooner if it begins with what stitching suggests.

A cell of `benchmarks.stitching`: one sampler proposes as in a search, once with suggestions and
once without, over small residual nets on Fashion-MNIST. A candidate is assembled from a library of
converted blocks and trained for four epochs; its result is the same whoever proposes it.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.search_cost_regimes import workshop
from nas_theseus.candidate.workshop import result_of
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.estimate.pareto import front_of, hypervolume_of
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.guide.cut import cut
from nas_theseus.guide.networks import ResNet
from nas_theseus.library.block_key import BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.searches.block_jobs import BlockJobs
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.opening import reference_of
from nas_theseus.services.optuna.study import Problem, StudySettings, open_study
from nas_theseus.space.genome import Genome
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.stitching.suggestions import stitch_errors, suggested
from nas_theseus.tasks import fashion_mnist
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.recipe import Recipe

SPACE = Path(__file__).resolve().parent.parent / "search_spaces" / "fashion_resnet.py"
SAMPLERS: tuple[str, ...] = ("theseus", "tpe")
SUGGESTIONS, TRIALS, WIDTH = 6, 12, 8
TRAIN_IMAGES, VALIDATION_IMAGES = 4_000, 2_000


def _known(told: Mapping[str, Evaluation], one: Architecture) -> Evaluation | None:
    return told.get(one.id)


def small_space() -> SearchSpace:
    """The blocks of `fashion_resnet` over a narrower guide and fewer images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = ResNet((2, 2, 2), WIDTH)
    return replace(
        load_space(SPACE),
        guide=cut(network, network.cuts, (1, 32, 32)),
        task=fashion_mnist(train_images=TRAIN_IMAGES, validation_images=VALIDATION_IMAGES),
        guide_training=Recipe(epochs=8, distill=0),
        recipe=Recipe(epochs=4, batch_size=32, library=True),
    )


def run_suggestions(sampler: str, seed: int, storage: Path) -> dict[str, Any]:
    """Hypervolume after each trial, with and without suggestions, the guide first in both."""
    space = small_space()
    prepare_guide(
        space.guide, space.task, space.guide_training, storage / "guides", torch.device("cpu")
    )
    shop, library = workshop(space), Library(storage / "benchmark-suggestions")
    values = {space.metric: score(space.guide, space.task, "validation")}
    reference = reference_of(space.goals, values | shop.costs.of_parts().known())
    began = time.perf_counter()
    first = suggested(space, shop.costs, stitch_errors(space), SUGGESTIONS)
    seconds = time.perf_counter() - began
    guide = space.guide_architecture()
    assert guide is not None
    known: dict[str, Evaluation] = {}
    found = {}
    for name, begin in (("with", [guide, *first]), ("without", [guide])):
        with tempfile.TemporaryDirectory() as folder:
            blocks = BlockJobs(BlockKeys(space), library, SearchFolder(Path(folder), "benchmark"))
            told: dict[str, Evaluation] = {}
            proposer = Proposer(space, shop.costs, reference, blocks.errors)
            study = open_study(
                StudySettings("benchmark", Path(folder) / "journal", sampler, seed),
                Problem(Genome(space), space.goals, space.limits, shop.costs.of, proposer=proposer),
                partial(_known, told),
                partial(list, begin),
            )
            volumes: list[float] = []
            while len(told) < TRIALS and (proposal := study.propose()) is not None:
                one: Architecture = proposal.architecture
                if one.id not in known:
                    known[one.id] = result_of(shop.convert(one, seed, library=library)).evaluation
                blocks.look_up(one)  # its blocks are there now, with their errors
                told[one.id] = known[one.id]
                study.report(proposal, told[one.id])
                front = front_of(list(told.values()), space.goals)
                volumes.append(hypervolume_of(front, space.goals, reference))
            found[name] = volumes
    return {
        "hypervolumes": found,
        "suggested": [
            {
                "pairing": one.pairing,
                "blocks": one.blocks,
                "validation": known[one.id].metrics[space.metric] if one.id in known else None,
                "macs": shop.costs.of(one).macs,
            }
            for one in first
        ],
        "stitching_seconds": seconds,
    }

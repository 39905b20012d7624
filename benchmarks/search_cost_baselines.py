"""The search as one writes it without nas-theseus: Ray Tune, OptunaSearch, training from scratch.

Ours are only the genome (what is searched), the training loop and the counting of MACs, the same as
in every method of `benchmarks.search_cost`. An architecture that is proposed again is answered from
memory and neither paid nor counted, in the baseline's favour: the plain program would train it
again.
"""

from __future__ import annotations

import functools
import math
import time
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch

from benchmarks.search_cost_regimes import Regime, described, prepared, workshop
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.errors import ConversionError
from nas_theseus.services.ray.executor import on_loopback
from nas_theseus.space.genome import Genome
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture, Hyperparameter
from nas_theseus.values.recipe import Recipe

# A candidate that diverged is told as one that knows nothing.
_CHANCE = 0.1


class Candidate(tune.Trainable):
    """One candidate, trained in one step; the process is used again for the next."""

    # `tune.with_parameters` adds arguments to setup.
    def setup(  # type: ignore[override]
        self, config: dict[str, Any], regime: Regime, recipe: Recipe, seed: int
    ) -> None:
        self._seed = seed
        self._shop = workshop(prepared(regime, recipe))
        self._genome = Genome(self._shop.space)
        self._known: dict[str, dict[str, Any]] = {}
        self.reset_config(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._genes: dict[str, Hyperparameter] = new_config
        return True

    def step(self) -> dict[str, Any]:
        architecture = self._genome.decode(self._genes)
        again = architecture.id in self._known
        if not again:
            self._known[architecture.id] = self._evaluated(architecture)
        distinct = len(self._known)
        return {**self._known[architecture.id], "again": again, "distinct": distinct, "done": True}

    def _evaluated(self, architecture: Architecture) -> dict[str, Any]:
        macs = self._shop.costs.of(architecture).macs
        facts = {**described(architecture, macs), "log_macs": math.log10(macs)}
        began = time.process_time()
        try:
            found = result_of(self._shop.convert(architecture, self._seed))
        except ConversionError as error:
            spent = time.process_time() - began
            return {
                **facts,
                "validation": _CHANCE,
                "test": None,
                "own_macs": 0,
                "own_seconds": spent,
                "error": str(error),
            }
        return {
            **facts,
            "own_seconds": time.process_time() - began,
            "own_macs": found.evaluation.train_macs_spent,
            "validation": found.evaluation.metrics[self._shop.space.metric],
            "test": score(found.network, self._shop.space.task, "test"),
        }

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: trials are short."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see `save_checkpoint`."""


class Enough(tune.Stopper):
    """Ends the search when so many different architectures are evaluated."""

    def __init__(self, trials: int) -> None:
        self._trials, self._distinct = trials, 0

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        self._distinct = max(self._distinct, result["distinct"])
        return False

    def stop_all(self) -> bool:
        return self._distinct >= self._trials


def search(
    regime: Regime, recipe: Recipe, seed: int, trials: int, folder: Path
) -> list[dict[str, Any]]:
    """What was evaluated, in order, each with its own MACs and core-seconds."""
    genes = Genome(prepared(regime, recipe)).genes
    searcher = OptunaSearch(metric=["validation", "log_macs"], mode=["max", "min"], seed=seed)
    with on_loopback() as loopback:
        ray.init(
            address="local",
            num_cpus=1,
            include_dashboard=False,
            log_to_driver=False,
            _node_ip_address=loopback,
        )
    try:
        results = tune.Tuner(
            tune.with_resources(
                tune.with_parameters(Candidate, regime=regime, recipe=recipe, seed=seed), {"CPU": 1}
            ),
            param_space={gene: tune.choice(list(values)) for gene, values in genes.items()},
            tune_config=tune.TuneConfig(
                # One at a time, as in every method: what is proposed depends on the seed alone.
                search_alg=ConcurrencyLimiter(searcher, max_concurrent=1),
                num_samples=4 * trials,
                reuse_actors=True,
            ),
            run_config=tune.RunConfig(
                name="tune", storage_path=str(folder.resolve()), stop=Enough(trials), verbose=0
            ),
        ).fit()
    finally:
        ray.shutdown()
    found = [
        result.metrics
        for result in (results[index] for index in range(len(results)))
        if result.metrics and "distinct" in result.metrics
    ]
    names = (
        "architecture",
        "pairing",
        "blocks",
        "macs",
        "validation",
        "test",
        "own_macs",
        "own_seconds",
        "error",
    )
    first = sorted((m for m in found if not m["again"]), key=lambda m: m["distinct"])
    return [{name: m[name] for name in names if name in m} for m in first[:trials]]


@functools.lru_cache(maxsize=1)
def _tuning_shop(regime: Regime) -> Workshop:
    return workshop(prepared(regime, Recipe()))


def tuned_on(
    regime: Regime, recipe: Recipe, architectures: list[Architecture], seed: int
) -> list[dict[str, Any]]:
    """Each of a few architectures trained by a recipe: what tuning compares, on validation."""
    shop = _tuning_shop(regime)
    rows = []
    for architecture in architectures:
        began = time.process_time()
        macs = shop.costs.of(architecture).macs
        try:
            found = result_of(shop.convert(architecture, seed, recipe))
            validation = found.evaluation.metrics[shop.space.metric]
        except ConversionError:
            validation = _CHANCE
        seconds = time.process_time() - began
        rows.append(
            {**described(architecture, macs), "validation": validation, "own_seconds": seconds}
        )
    return rows

"""How long a search will take, estimated before it starts."""

from __future__ import annotations

import copy
import math
import os
import time

import torch

from nas_theseus.costs.table import CostTable
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.opening import Measured
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.outcomes import Evaluation, Stopped

# Seconds to start the workers, and per trial in addition to its own work, on two cores.
START_S, TRIAL_S = 8.0, 0.3
_STEPS = 3
# Programs that want to run, for each core. A guide that was just trained is one or two of them.
_BUSY = 1.5


def forecast(
    measured: Measured, folder: SearchFolder, trials: int, parallel: int, device: torch.device
) -> str:
    """One line on how long `trials` will take, from earlier trials or a few steps of the guide."""
    where = f"{trials} trials to run, {parallel} at a time"
    if not trials:
        return where
    outcomes = (o.evaluation if isinstance(o, Stopped) else o for o in folder.outcomes())
    seconds = [o.seconds for o in outcomes if isinstance(o, Evaluation) and o.curve]
    if seconds:
        blocks = sum(outcome.seconds for outcome in folder.block_outcomes())
        each, source = (sum(seconds) + blocks) / len(seconds), "from the trials so far"
    else:
        each = _guide_seconds(measured.space, device) * _share(measured.costs)
        source = "roughly, from the guide's own steps"
    total = START_S + (each + TRIAL_S) * trials / parallel
    return f"{where}: about {duration(total)} ({source}{busy()})"


def busy() -> str:
    """A warning if other programs keep this machine's processors busy; empty if they do not."""
    waiting, cores = os.getloadavg()[0], len(os.sched_getaffinity(0))
    if waiting <= _BUSY * cores:
        return ""
    return f"; longer while this machine is as busy as now: {waiting:.0f} programs on {cores} cores"


def duration(seconds: float) -> str:
    """Seconds as people say them: 45 s, 3.5 min, 2.1 h."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


def _share(costs: CostTable) -> float:
    """Multiply-adds of a typical architecture of the space, as a share of the guide's."""
    cheapest, dearest = costs.range("macs")
    return math.sqrt(max(cheapest, 1) * dearest) / max(costs.of_parts().macs, 1)


def _guide_seconds(space: SearchSpace, device: torch.device) -> float:
    """Seconds to train the guide by the candidates' recipe, from the fastest of a few steps."""
    recipe = space.recipe
    examples = space.task.size("train")
    batch = min(recipe.batch_size, examples)
    inputs = space.task.sample(batch).to(device)
    network = copy.deepcopy(space.guide).to(device).requires_grad_(True).train()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    times = []
    try:
        for _ in range(1 + _STEPS):  # the first one warms up
            started = time.perf_counter()
            network(inputs).float().square().mean().backward()
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter() - started)
    finally:
        torch.set_num_threads(threads)
    align = recipe.align_steps * len(space.guide) * recipe.align_batch_size / batch / 2
    settled = recipe.settle_steps * recipe.settle_batch_size / batch
    settled = settled or recipe.settle_epochs * (examples // batch)
    trained = recipe.steps or recipe.epochs * (examples // batch)
    steps = trained + settled + align
    return min(times[1:]) * steps

"""How long a search will take, told before it starts."""

from __future__ import annotations

import copy
import time

import torch

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.outcomes import Evaluation, Stopped


def forecast(
    space: SearchSpace, storage: SearchFolder, trials: int, parallel: int, device: torch.device
) -> str:
    """One line on how long `trials` will take, from earlier ones or a few steps of the guide."""
    where = f"{trials} trials to run, {parallel} at a time"
    if not trials:
        return where
    outcomes = (o.evaluation if isinstance(o, Stopped) else o for o in storage.outcomes())
    seconds = [o.seconds for o in outcomes if isinstance(o, Evaluation) and o.curve]
    if seconds:
        blocks = sum(outcome.seconds for outcome in storage.block_outcomes())
        each, source = (sum(seconds) + blocks) / len(seconds), "from the trials so far"
    else:
        each, source = _guide_seconds(space, device), "roughly, from the guide's own steps"
    return f"{where}: about {each * trials / parallel / 60:.1f} min ({source})"


def _guide_seconds(space: SearchSpace, device: torch.device) -> float:
    """The guide taken through the candidates' recipe, from two timed steps on one thread."""
    recipe = space.recipe
    examples = space.task.size("train")
    batch = min(recipe.batch_size, examples)
    inputs = space.task.sample(batch)
    network = copy.deepcopy(space.guide).to(device).requires_grad_(True).train()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        started = time.perf_counter()
        for step in range(3):
            if step == 1:  # the first one warms up
                started = time.perf_counter()
            network(inputs.to(device)).float().square().mean().backward()
        if device.type == "cuda":
            torch.cuda.synchronize()
        each = (time.perf_counter() - started) / 2
    finally:
        torch.set_num_threads(threads)
    align = recipe.align_steps * len(space.guide) * recipe.align_batch_size / batch / 2
    return each * ((recipe.epochs + recipe.settle_epochs) * (examples // batch) + align)

"""Quality of a network on a split of its task; costs come from `costs`."""

from __future__ import annotations

import torch
from torch import nn

from nas_theseus.tasks import Split, Task


def score(network: nn.Module, task: Task, split: Split, batch_size: int = 512) -> float:
    """The task's metric on one split, in eval mode; the network's mode is restored.

    Only `nas_theseus.search.run` reads the test split, once, for the front.
    """
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    total, count = 0.0, 0
    with torch.inference_mode():
        for batch in task.batches(split, batch_size, device=device):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                outputs = network(batch.inputs)
            batch_total, batch_count = task.total(outputs.float(), batch.targets)
            total += batch_total
            count += batch_count
    network.train(was_training)
    return task.finish(total, count)

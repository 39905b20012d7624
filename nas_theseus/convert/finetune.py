"""Task training of a whole network, with the guide's logits as teacher where wanted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_theseus.convert.activations import GuideActivations
from nas_theseus.errors import ConversionError
from nas_theseus.settings import Recipe
from nas_theseus.tasks import Task
from nas_theseus.values import derive_seed


@dataclass(frozen=True)
class EpochLoss:
    """Mean training loss of one epoch, examples seen, and of them those the teacher ran for."""

    epoch: int
    loss: float
    examples: int
    taught: int = 0


def distillation_loss(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Cross-entropy between softened distributions, times T², less the teacher's entropy.

    Args:
        outputs, teacher: logits of shape (..., classes).

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    student = F.log_softmax(outputs / temperature, dim=-1).flatten(0, -2)
    target = F.log_softmax(teacher / temperature, dim=-1).flatten(0, -2)
    return F.kl_div(student, target, reduction="batchmean", log_target=True) * temperature**2


def train(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    seed: int,
    teacher: GuideActivations | None = None,
) -> Iterator[EpochLoss]:
    """Train in place with AdamW and a one-cycle schedule; bf16 autocast on CUDA.

    Args:
        network: on its device already; put into train mode.
        seed: fixes the order of examples.
        teacher: used when ``recipe.distill > 0``.

    Raises:
        ConversionError: the loss is not finite.
    """
    device = next(network.parameters()).device
    examples = task.size("train")
    batch_size = min(recipe.batch_size, examples)
    epoch_steps = examples // batch_size
    steps = round(recipe.epochs * epoch_steps)
    if steps == 0:
        return
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    # Cycles the learning rate only: momentum stays, as the recipe was tuned so.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        recipe.learning_rate,
        total_steps=steps,
        # With a warm-up of just one of five steps torch divides by 0.
        pct_start=0.2 if steps != 5 else 0.25,
        cycle_momentum=False,
    )
    weight = recipe.distill if teacher is not None else 0.0
    network.train()
    left = steps
    for epoch in range(math.ceil(steps / epoch_steps)):
        # Dropout and the like draw from torch's global generator, whatever ran here before.
        torch.manual_seed(derive_seed("epoch", seed, epoch))
        total = torch.zeros((), device=device)
        seen = taught_anew = 0
        batches = task.batches("train", batch_size, seed=seed + epoch, device=device)
        for batch in itertools.islice(batches, left):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                outputs = network(batch.inputs)
            outputs = outputs.float()
            loss = (1 - weight) * task.loss(outputs, batch.targets) if weight < 1 else 0.0 * total
            if teacher is not None and weight > 0:
                taught = (
                    teacher.teach(batch.inputs)
                    if batch.index is None
                    else teacher.logits(task)[batch.index]
                )
                loss = loss + weight * distillation_loss(outputs, taught, recipe.temperature)
                taught_anew += len(batch.inputs) if batch.index is None else 0
            optimizer.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            optimizer.step()
            schedule.step()
            total += loss.detach()
            seen += len(batch.inputs)
        left -= seen // batch_size
        mean = float(total) / max(1, seen // batch_size)
        if not math.isfinite(mean):
            raise ConversionError(
                f"task training diverged in epoch {epoch}: the mean loss is {mean}; lower "
                "learning_rate"
            )
        yield EpochLoss(epoch, mean, seen, taught_anew)

"""Task training of a whole network, with the guide's logits as teacher where wanted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.training_checkpoint import Checkpoint, TrainingProgress
from nas_theseus.errors import ConversionError
from nas_theseus.tasks import Batch, Task
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.recipe import Recipe


@dataclass(frozen=True)
class EpochLoss:
    """Mean training loss of one epoch, examples seen, and of them those the teacher ran for.

    Attributes:
        pieces: how many a batch is computed in, one after the other, as memory does not hold more.
    """

    epoch: int
    loss: float
    examples: int
    taught: int = 0
    pieces: int = 1


def train(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    seed: int,
    teacher: GuideActivations | None = None,
    checkpoint: Checkpoint | None = None,
) -> Iterator[EpochLoss]:
    """Train in place with AdamW and a one-cycle schedule; bf16 autocast on CUDA.

    A batch that does not fit into the device's memory is computed in halves, quarters and so on,
    whose gradients are added up: the step is the same but for batch norms, whose statistics are
    then of a piece, and for what dropout draws.

    Args:
        network: on its device already; put into train mode.
        seed: fixes the order of examples.
        teacher: used when ``recipe.distill > 0``.
        checkpoint: saved after every epoch; the training resumes from it where there is one.
            Default: none.

    Raises:
        ConversionError: the loss is not finite, or not even two examples fit into memory.
    """
    device = next(network.parameters()).device
    examples = task.size("train")
    batch_size = min(recipe.batch_size, examples)
    epoch_steps = examples // batch_size
    steps = round(recipe.epochs * epoch_steps)
    if steps == 0:
        return
    parameters = [p for p in network.parameters() if p.requires_grad]
    optimizer, schedule = _optimizer(parameters, recipe, steps)
    loss_of = _Loss(network, task, recipe, teacher if recipe.distill > 0 else None)
    network.train()
    done = TrainingProgress(0, steps)
    if checkpoint is not None:
        done = checkpoint.resume(network, optimizer, schedule) or done
    for epoch in range(done.epochs, math.ceil(steps / epoch_steps)):
        # Dropout and the like draw from torch's global generator, whatever ran here before.
        torch.manual_seed(derive_seed("epoch", seed, epoch))
        total = torch.zeros((), device=device)
        seen = taught_anew = 0
        batches = task.batches("train", batch_size, seed=seed + epoch, device=device)
        pieces = done.pieces
        for batch in itertools.islice(batches, done.left):
            loss, pieces = _accumulate(loss_of, batch, pieces, optimizer)
            taught_anew += len(batch.inputs) * loss_of.teaches_anew(batch)
            torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            optimizer.step()
            schedule.step()
            total += loss
            seen += len(batch.inputs)
        done = TrainingProgress(epoch + 1, done.left - seen // batch_size, pieces)
        mean = float(total) / max(1, seen // batch_size)
        if not math.isfinite(mean):
            raise ConversionError(
                f"task training diverged in epoch {epoch}: the mean loss is {mean}; lower "
                "learning_rate"
            )
        if checkpoint is not None:
            checkpoint.save(done, network, optimizer, schedule)
        yield EpochLoss(epoch, mean, seen, taught_anew, pieces)


def _optimizer(
    parameters: list[nn.Parameter], recipe: Recipe, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    """AdamW, and one cycle of its learning rate over so many steps."""
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
    return optimizer, schedule


@dataclass(frozen=True)
class _Loss:
    """The loss of a batch: of its targets and, where there is a teacher, of the guide's outputs."""

    network: nn.Module
    task: Task
    recipe: Recipe
    teacher: GuideActivations | None

    def __call__(self, batch: Batch) -> Tensor:
        """Mean loss of the batch, a scalar."""
        kind = batch.inputs.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=kind == "cuda"):
            outputs = self.network(batch.inputs)
        outputs = outputs.float()
        weight = self.recipe.distill if self.teacher is not None else 0.0
        labelled = self.task.loss(outputs, batch.targets) if weight < 1 else outputs.new_zeros(())
        loss = (1 - weight) * labelled
        if self.teacher is not None:
            taught = (
                self.teacher.teach(batch.inputs)
                if batch.index is None
                else self.teacher.logits(self.task)[batch.index]
            )
            temperature = self.recipe.temperature
            loss = loss + weight * self.task.distillation(outputs, taught, temperature)
        return loss

    def teaches_anew(self, batch: Batch) -> bool:
        """Whether the guide runs for this batch, whose outputs are not cached."""
        return self.teacher is not None and batch.index is None


def _split(batch: Batch, pieces: int) -> Iterator[Batch]:
    """A batch in pieces whose sizes differ by at most one."""
    inputs, targets = batch.inputs.tensor_split(pieces), batch.targets.tensor_split(pieces)
    index = [None] * pieces if batch.index is None else batch.index.tensor_split(pieces)
    return map(Batch, inputs, targets, index)


def _accumulate(
    loss_of: Callable[[Batch], Tensor], batch: Batch, pieces: int, optimizer: torch.optim.Optimizer
) -> tuple[Tensor, int]:
    """Gradients of a batch's mean loss, in as many pieces as memory asks for.

    Returns:
        The loss, and how many pieces it took.
    """
    count = len(batch.inputs)
    while True:
        optimizer.zero_grad(set_to_none=True)
        try:
            total = torch.zeros((), device=batch.inputs.device)
            for piece in _split(batch, pieces):
                loss = loss_of(piece) * (len(piece.inputs) / count)
                loss.backward()  # type: ignore[no-untyped-call]
                total += loss.detach()
            return total, pieces
        except torch.OutOfMemoryError as error:
            if count < 4 * pieces:  # batch norms need two examples
                raise ConversionError(
                    f"out of memory with {count // pieces} examples at once: {error}; give a trial "
                    "more of a GPU (--gpus-per-trial), or a smaller network or batch_size"
                ) from error
        # Outside of the handler, whose traceback keeps the activations alive.
        pieces *= 2
        torch.cuda.empty_cache()

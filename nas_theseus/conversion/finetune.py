"""Task training of a whole network, with the guide as teacher where wanted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.links import links_of
from nas_theseus.conversion.target import batch_norms
from nas_theseus.conversion.training_checkpoint import Checkpoint, TrainingProgress
from nas_theseus.conversion.training_loss import TrainingLoss
from nas_theseus.errors import ConversionError
from nas_theseus.tasks import Batch, Task
from nas_theseus.tasks.task import Device
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.recipe import Recipe


@dataclass(frozen=True)
class EpochLoss:
    """Mean training loss of one epoch, examples seen, and of them those the teacher ran for.

    A budget in steps has equal slices in place of epochs (`Recipe.steps`).

    Attributes:
        pieces: how many a batch is computed in, one after the other, as memory does not hold more;
            1 if it is computed as the recipe says.
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
    kept: Collection[nn.Parameter] = (),
    checkpoint: Checkpoint | None = None,
) -> Iterator[EpochLoss]:
    """Train in place with AdamW and a one-cycle schedule; bf16 autocast on CUDA.

    A batch that does not fit into the device's memory is computed in halves, quarters and so on,
    whose gradients are added up: the step is the same but for batch norms, whose statistics are
    then of a piece, and for what dropout draws.

    Args:
        network: on its device already; put into train mode, but for links of a chain whose weights
            are all frozen and for batch norms that keep their statistics. A network without
            anything to train is left as it is.
        seed: fixes the order of examples.
        teacher: used when ``recipe.distill > 0`` or ``recipe.hidden > 0``.
        kept: parameters that train with ``recipe.kept_learning_rate``.
        checkpoint: saved after every epoch or slice of a budget in steps; the training resumes
            from it where there is one. Default: none.

    Raises:
        ConversionError: the loss is not finite, not even two examples fit into memory, the recipe
            needs a chain of blocks, or a batch norm would get a single example.
    """
    device = next(network.parameters()).device
    batch_size = min(recipe.batch_size, task.size("train"))
    steps = recipe.steps_over(task.size("train"))
    parameters = [p for p in network.parameters() if p.requires_grad]
    if steps == 0 or not parameters:
        return
    optimizer, schedule = _optimizer(parameters, recipe, steps, kept)
    loss_of = TrainingLoss(network, task, recipe, teacher)
    _train_mode(network, recipe)
    planned = _planned_pieces(network, recipe, batch_size)
    done = TrainingProgress(0, planned)
    if checkpoint is not None:
        done = checkpoint.resume(network, optimizer, schedule) or done
    pieces, first = done.pieces, done.epochs
    for epoch, batches in enumerate(_slices(task, recipe, batch_size, seed, device, first), first):
        total = torch.zeros((), device=device)
        seen = taught_anew = 0
        for batch in batches:
            loss, pieces = _accumulate(loss_of, batch, pieces, optimizer)
            taught_anew += len(batch.inputs) * loss_of.teaches_anew(batch)
            torch.nn.utils.clip_grad_norm_(parameters, recipe.gradient_clip)
            optimizer.step()
            schedule.step()
            total += loss
            seen += len(batch.inputs)
        mean = float(total) / max(1, seen // batch_size)
        if not math.isfinite(mean):
            raise ConversionError(
                f"task training diverged in epoch {epoch}: the mean loss is {mean}; lower "
                "learning_rate"
            )
        if checkpoint is not None:
            done = TrainingProgress(epoch + 1, pieces)
            checkpoint.save(done, network, optimizer, schedule)
        yield EpochLoss(epoch, mean, seen, taught_anew, pieces if pieces > planned else 1)


def _slices(
    task: Task, recipe: Recipe, batch_size: int, seed: int, device: Device, first: int
) -> Iterator[Iterator[Batch]]:
    """The batches of each epoch, or of each slice of a budget in steps.

    Args:
        first: number of epochs or slices that are done already.
    """

    def one_pass(number: int) -> Iterator[Batch]:
        return task.batches("train", batch_size, seed=seed + number, device=device)

    steps, epoch_steps = recipe.steps_over(task.size("train")), task.size("train") // batch_size
    begun, inside = divmod(recipe.mark(first) if recipe.steps else 0, epoch_steps)
    passes = map(one_pass, itertools.count(begun))
    endless = itertools.islice(itertools.chain.from_iterable(passes), inside, None)
    count = int(recipe.reports) if recipe.steps else math.ceil(steps / epoch_steps)
    for number in range(first, count):
        # Dropout and the like draw from torch's global generator, whatever ran here before.
        torch.manual_seed(derive_seed("epoch", seed, number))
        if recipe.steps:
            yield itertools.islice(endless, recipe.mark(number + 1) - recipe.mark(number))
        else:
            yield itertools.islice(one_pass(number), steps - number * epoch_steps)


def _train_mode(network: nn.Module, recipe: Recipe) -> None:
    """Train mode, but for links whose weights are all frozen, and where wanted for batch norms."""
    network.train()
    for link in links_of(network):
        if isinstance(link, nn.Module):
            given = [parameter.requires_grad for parameter in link.parameters()]
            if given and not any(given):
                link.eval()
    if recipe.freeze_statistics:
        for norm in batch_norms(network):
            norm.eval()


def _planned_pieces(network: nn.Module, recipe: Recipe, batch_size: int) -> int:
    """In how many pieces the recipe has a batch computed.

    Raises:
        ConversionError: a piece has one example, and the network has batch norms.
    """
    if recipe.micro_batch is None:
        return 1
    pieces = -(-batch_size // recipe.micro_batch)
    if batch_size // pieces < 2 and any(norm.training for norm in batch_norms(network)):
        raise ConversionError(
            f"micro_batch={recipe.micro_batch} leaves single examples of a batch of {batch_size}, "
            "for which batch norms have no statistics; use a micro_batch of at least 2 that "
            "divides batch_size"
        )
    return pieces


def _optimizer(
    parameters: list[nn.Parameter], recipe: Recipe, steps: int, kept: Collection[nn.Parameter]
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.OneCycleLR]:
    """AdamW, and one cycle of its learning rates over so many steps."""
    factor = recipe.kept_learning_rate
    slow = {id(parameter) for parameter in kept} if factor != 1 else set()
    groups = [
        (recipe.learning_rate, [p for p in parameters if id(p) not in slow]),
        (recipe.learning_rate * factor, [p for p in parameters if id(p) in slow]),
    ]
    groups = [(rate, members) for rate, members in groups if members]
    optimizer = torch.optim.AdamW(
        [{"params": members, "lr": rate} for rate, members in groups],
        weight_decay=recipe.weight_decay,
    )
    # Cycles the learning rate only: momentum stays, as the recipe was tuned so.
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        [rate for rate, _ in groups],
        total_steps=steps,
        # With a warm-up of exactly one step torch divides by 0.
        pct_start=recipe.warmup * (1.25 if recipe.warmup * steps == 1 else 1),
        cycle_momentum=False,
    )
    return optimizer, schedule


def _split(batch: Batch, pieces: int) -> Iterator[Batch]:
    """A batch in pieces whose sizes differ by at most one."""

    def split(tensor: Tensor | None) -> Sequence[Tensor | None]:
        return [None] * pieces if tensor is None else tensor.tensor_split(pieces)

    return map(Batch, *map(split, batch))


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

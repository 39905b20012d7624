"""Assemble a target network from an architecture: new blocks, and copies of guide parts."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.tasks import Batch, Task
from nas_theseus.values.architecture import Architecture, Boundary


class Target(nn.Module):
    """A candidate as a chain of blocks, one for each choice of its architecture.

    Attributes:
        boundaries: boundaries between the blocks: the input, then every block's outlet.
        preserving: whether each block starts with the function of the guide's part, as a copy of it
            or grown from it.
        replaced: positions of all other blocks with parameters, which are aligned.
    """

    def __init__(
        self,
        architecture: Architecture,
        blocks: list[nn.Module],
        preserving: list[bool],
        boundaries: tuple[Boundary, ...],
    ):
        super().__init__()
        self.architecture = architecture
        self.boundaries = boundaries
        self.blocks = nn.ModuleList(blocks)
        self.preserving = tuple(preserving)
        self.replaced = tuple(
            position
            for position, (block, same) in enumerate(zip(blocks, preserving, strict=True))
            if not same and any(True for _ in block.parameters())
        )

    def forward(self, inputs: Tensor) -> Tensor:
        features = inputs
        for block in self.blocks:
            features = block(features)
        return features

    def inlet_boundary(self, position: int) -> int:
        """Index of the guide's boundary before a block."""
        return self.architecture.choices[position].span.start

    def outlet_boundary(self, position: int) -> int:
        """Index of the guide's boundary after a block."""
        return self.architecture.choices[position].span.stop

    def label(self, position: int) -> str:
        return self.architecture.label(position)

    def freeze_all_but(self, positions: Collection[int]) -> None:
        """Freeze all but these blocks; frozen blocks are in eval mode with fixed statistics."""
        for position, block in enumerate(self.blocks):
            block.train(position in positions)
            block.requires_grad_(position in positions)

    def thaw(self) -> None:
        self.train()
        self.requires_grad_(True)

    def parameters_of(self, positions: Collection[int]) -> list[nn.Parameter]:
        return [p for position in positions for p in self.blocks[position].parameters()]


def assemble(
    space: SearchSpace,
    architecture: Architecture,
    generator_seed: int,
    *,
    fresh: bool = False,
    activations: GuideActivations | None = None,
) -> Target:
    """A target on the CPU: guide parts are copied (never shared), other blocks are new.

    Parts that are kept or transformed are copied together, so that weights tied between them stay
    tied.

    Args:
        generator_seed: seed of the new blocks' random weights.
        fresh: whether guide parts also start from random weights (the ablation `scratch`).
        activations: activations of the space's guide, by which narrower blocks select channels.
            Not needed if weights are loaded afterwards.

    Raises:
        PairingError: a block cannot replace its span.
    """
    families = [space.families[choice.block] for choice in architecture.choices]
    parts = copy.deepcopy(
        {
            choice.span.start: space.guide.parts[choice.span.start]
            for choice, family in zip(architecture.choices, families, strict=True)
            if family.of_part
        }
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(generator_seed)
        for part in parts.values():
            part.to("cpu")
        blocks, share = [], 1.0
        for choice, family in zip(architecture.choices, families, strict=True):
            start = choice.span.start
            if family.keeps:
                block = parts[start]
            else:
                needed = family.of_part and not family.preserves and not fresh
                known = activations if needed else None
                block = space.build(
                    choice,
                    share,
                    part=parts.get(start),
                    features=known.at(start) if known else None,
                    channels=known.channels if known else None,
                )
            if fresh and family.of_part:
                reinitialise(block)
            blocks.append(block)
            share = choice.width_share
    preserving = [family.preserves for family in families]
    return Target(architecture, blocks, preserving, space.boundaries(architecture))


def reinitialise(module: nn.Module) -> None:
    """Reset weights to random ones with each layer's own `reset_parameters`.

    Embeddings, and parameters outside layers (positions, class tokens), are drawn from a normal
    distribution of deviation 0.02 truncated at two deviations (ours, as in GPT-2 and ViT). With
    torch's variance of 1, a head tied to embeddings would have useless logits for long.
    """
    for layer in module.modules():
        if not any(True for _ in layer.parameters(recurse=False)):
            continue
        reset = getattr(layer, "reset_parameters", None) or getattr(
            layer, "_reset_parameters", None
        )
        if callable(reset) and not isinstance(layer, nn.Embedding):
            reset()
        else:
            for parameter in layer.parameters(recurse=False):
                nn.init.trunc_normal_(parameter, std=0.02)


def recalibrate(target: nn.Module, task: Task, batch_size: int, examples: int) -> int:
    """Compute batch-norm statistics again from training inputs; weights do not change.

    Returns:
        Number of examples that were run; 0 for a network without batch norm.
    """
    if not batch_norms(target):
        return 0
    was_training = target.training
    device = next(target.parameters()).device
    seen = 0
    with gathering_statistics(target.eval()), torch.no_grad():
        for batch in task.batches("train", batch_size, seed=0, device=device, limit=examples):
            target(batch.inputs)
            seen += len(batch.inputs)
    target.train(was_training)
    return seen


def recalibrate_if_better(
    target: nn.Module,
    task: Task,
    batch_size: int,
    examples: int,
    loss: Callable[[Batch], Tensor],
) -> int:
    """`recalibrate`, undone where the mean loss on these inputs is higher than before.

    Ours. A pretrained guide has the statistics of its own training data. On other data, new ones
    take its outputs away from what they were (docs/evidence/evidence.md, vision networks).

    Args:
        loss: of the target on a batch.

    Returns:
        Number of examples that were run, those for the losses included.
    """
    if not batch_norms(target):
        return 0

    def mean_loss() -> tuple[float, int]:
        total, seen = 0.0, 0
        with torch.no_grad():
            for batch in task.batches("train", batch_size, seed=0, device=device, limit=examples):
                total += float(loss(batch)) * len(batch.inputs)
                seen += len(batch.inputs)
        return total / seen, seen

    was_training, device = target.training, next(target.parameters()).device
    target.eval()
    before = {name: buffer.clone() for name, buffer in target.named_buffers()}
    (lost_before, ran), seen = mean_loss(), recalibrate(target, task, batch_size, examples)
    lost_after, again = mean_loss()
    if lost_before <= lost_after or not math.isfinite(lost_after):
        for name, buffer in target.named_buffers():
            buffer.copy_(before[name])
    target.train(was_training)
    return ran + seen + again


def batch_norms(module: nn.Module) -> list[nn.modules.batchnorm._BatchNorm]:
    """All batch norms in a module."""
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


@contextmanager
def gathering_statistics(module: nn.Module) -> Iterator[None]:
    """Context in which batch norms reset their statistics and compute them as cumulative means.

    They are in eval mode afterwards.
    """
    norms = batch_norms(module)
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()

"""What a block's training step costs beside the bare step: forward, loss, backward, optimiser.

Ours is the stage loop as a search runs it (`conversion.alignment`), guide's activations and
similarity included. Bare is the same block with mean squared error on batches that already lie in
memory, one after the other. Both alternate in one process; medians of ratios within a round.

    python -m benchmarks.step
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from benchmarks.record import write_record
from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Basic, BlockFamily, Depthwise, Keep, TokenMLP
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.alignment import Alignment, StageRun
from nas_theseus.conversion.similarity import similarity
from nas_theseus.conversion.stage import stages
from nas_theseus.conversion.target import assemble
from nas_theseus.guide.networks import ResNet
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.recipe import Recipe

BLOCKS: dict[str, BlockFamily] = {
    "basic": Basic(width=0.5),
    "depthwise": Depthwise(expand=2.0),
    "token_mlp": TokenMLP(hidden=64),
}
LOSSES: tuple[str, ...] = ("regression", "cka")


def space() -> SearchSpace:
    """The first boundaries of `fashion_resnet`: maps of 16 x 32 x 32."""
    torch.manual_seed(0)
    network = ResNet(blocks=(2, 2, 2), width=16)
    guide = cut(network, network.cuts, inlet=(1, 32, 32))
    return SearchSpace(guide=guide, task=digits(), blocks=[Keep(), *BLOCKS.values()])


def measured(
    space: SearchSpace, choice: BlockChoice, loss: str, batch: int, rounds: int
) -> dict[str, float]:
    """Milliseconds of both steps, and their ratio."""
    steps = 4
    recipe = Recipe(similarity=loss, align_steps=steps, align_batch_size=batch)
    sample = torch.randn(4 * batch, *space.guide.boundaries[0].shape)
    activations = GuideActivations(space.guide, sample, torch.device("cpu"))
    kept = [BlockChoice(Span(i, i + 1), "keep") for i in range(len(space.guide))]
    kept[choice.span.start] = choice
    target = assemble(space, Architecture(tuple(kept)), 0)
    (stage,) = stages("independent", "forward", target.replaced)
    generator = torch.Generator().manual_seed(0)
    macs = [0] * len(target.blocks)  # nobody counts here
    alignment = Alignment(target, activations, similarity(loss), recipe, generator, macs)
    run = StageRun(alignment, 0, stage, activations.at(stage.start))
    block = target.blocks[choice.span.start]
    inputs = torch.split(activations.at(stage.start), batch)
    goals = torch.split(activations.at(stage.stop), batch)
    optimizer = torch.optim.AdamW(block.parameters())

    def bare() -> None:
        block.train().requires_grad_(True)
        for x, y in zip(inputs, goals, strict=True):
            optimizer.zero_grad(set_to_none=True)
            F.mse_loss(block(x), y).backward()  # type: ignore[no-untyped-call]
            optimizer.step()

    def milliseconds(call: Callable[[], object]) -> float:
        started = time.perf_counter()
        call()
        return 1000 * (time.perf_counter() - started) / steps

    found = [(milliseconds(run.train), milliseconds(bare)) for _ in range(rounds + 1)][1:]
    return {
        "ours_ms": statistics.median(ours for ours, _ in found),
        "bare_ms": statistics.median(plain for _, plain in found),
        "over_bare": statistics.median(ours / plain for ours, plain in found),
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    found = space()
    cells = []
    for loss in LOSSES:
        for name in BLOCKS:
            choice = next(c for c in found.choices(Span(1, 2)) if c.block == name)
            values = measured(found, choice, loss, options.batch, options.rounds)
            cells.append({"block": name, "loss": loss, "batch": options.batch, **values})
            print(", ".join(f"{key} {value}" for key, value in cells[-1].items()))
    worst = {loss: max(c["over_bare"] for c in cells if c["loss"] == loss) for loss in LOSSES}
    figures = {
        "step_over_bare": worst["regression"],
        "step_over_bare_with_cka": worst["cka"],
    }
    notes = {"step_over_bare": "the worst of three blocks, on the widest maps of fashion_resnet"}
    print(f"wrote {write_record('step', figures, cells, [0], notes, packages=('torch',))}")


if __name__ == "__main__":
    main()

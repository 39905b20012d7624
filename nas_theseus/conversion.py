"""One conversion in this process, without Ray: guide to one target, with its similarity curve."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from nas_theseus.candidate import Converted, Workshop
from nas_theseus.convert.guide_training import prepare_guide
from nas_theseus.errors import SpaceError, StorageError
from nas_theseus.export import write_member
from nas_theseus.guide import plain_state
from nas_theseus.kept import refuse_mistakes
from nas_theseus.settings import Recipe, validated
from nas_theseus.space import load_space
from nas_theseus.storage import Storage, read_architecture, searches, write_tensors
from nas_theseus.values import Architecture


@dataclass(frozen=True)
class Conversion:
    """A converted network and its similarity by block and stage."""

    converted: Converted
    similarity: dict[str, dict[int, float]]

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: one row a block, one column a stage; higher is more alike."""
        choices = self.converted.evaluation.architecture.choices
        last = max(stage for stages in self.similarity.values() for stage in stages)
        rows = [
            [f"{position}: {choices[int(position)]} for {choices[int(position)].span}"]
            + [f"{stages[s]:.3f}" if s in stages else "" for s in range(last + 1)]
            for position, stages in self.similarity.items()
        ]
        return ["block", *(f"stage {stage}" for stage in range(last + 1))], rows


def convert_one(
    space_file: Path,
    architecture: str,
    changes: Mapping[str, str],
    *,
    seed: int,
    device: str,
    out: Path,
    storage: Path,
    say: Callable[[str], None],
) -> Conversion:
    """Convert one architecture and write it to a folder that `load` reads.

    Args:
        architecture: id of one that a search in `storage` evaluated, or a JSON file.
        changes: recipe settings other than the space's (schedule, similarity).

    Raises:
        SpaceError: a setting is unknown, or the architecture is not of this space.
        StorageError: no such architecture.
        ConversionError: the conversion diverged.
    """
    text = space_file.read_text(encoding="utf-8") if space_file.is_file() else None
    space = load_space(space_file, text)
    refuse_mistakes(space, space_file)
    recipe = validated(Recipe, {**space.recipe.model_dump(), **changes}, "recipe")
    chosen = find_architecture(architecture, storage)
    refusal = space.refusal(chosen)
    if refusal is not None:
        raise SpaceError(f"architecture {architecture}", [refusal])
    prepare_guide(
        space.guide, space.task, space.guide_training, storage / "guides", torch.device(device),
        lambda epoch: say(f"guide: epoch {epoch.epoch + 1}, loss {epoch.loss:.4f}"),
    )  # fmt: skip
    workshop = Workshop(space, torch.device(device))
    steps = workshop.run(chosen, seed, recipe)
    similarity: dict[str, dict[int, float]] = {}
    while True:
        try:
            progress = next(steps)
        except StopIteration as end:
            converted: Converted = end.value
            break
        for point in progress.points:
            kind, _, position = point.metric.partition("/")
            if kind == "similarity":
                similarity.setdefault(position, {})[point.step] = point.value
            say(f"{progress.stage}: {point.metric} at {point.step} = {point.value:.4f}")
    weights = out / "weights.safetensors"
    write_tensors(weights, plain_state(converted.network))
    write_member(out, converted.evaluation, weights, text or "")
    return Conversion(converted, similarity)


def find_architecture(text: str, storage: Path) -> Architecture:
    """An architecture from a JSON file, or by its id from the searches of a storage folder.

    Raises:
        StorageError: neither.
    """
    if text.endswith(".json") or Path(text).is_file():
        return read_architecture(Path(text))
    for name in searches(storage):
        for outcome in Storage(storage, name).outcomes():
            if outcome.architecture.id == text:
                return outcome.architecture
    raise StorageError(
        f"no architecture {text!r} in {storage}: give the id of an evaluated one ('nas-theseus "
        "front NAME' lists them), or a JSON file"
    )

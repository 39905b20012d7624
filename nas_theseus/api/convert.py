"""One conversion in this process, without Ray: guide to one target, with its pictures."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from nas_theseus.api.found import find_architecture
from nas_theseus.candidate.candidate import Converted
from nas_theseus.candidate.workshop import Workshop
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.stage import Stage, stages
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.costs.block_measurements import TABLE_FILE, BlockMeter
from nas_theseus.errors import ConversionError, SpaceError
from nas_theseus.export.member import member_files, write_member
from nas_theseus.guide.weights import plain_state
from nas_theseus.library.store import Library
from nas_theseus.pictures.of_conversion import (
    CHAIN_FILE,
    REPLACEMENTS_FILE,
    SIMILARITY_FILE,
    chain_picture,
    replacements_picture,
    similarity_picture,
    write_picture,
)
from nas_theseus.searches.beginning import refuse_mistakes
from nas_theseus.services.mlflow import recording
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources, gather
from nas_theseus.storage.whole_files import make_folder, write_json, write_tensors
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.events import Progress
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import CurvePoint, Evaluation
from nas_theseus.values.recipe import Order, Recipe, changed

REPLACEMENTS_JSON = "replacements.json"


@dataclass(frozen=True)
class Conversion:
    """A converted network and the MLflow run that records it."""

    converted: Converted
    run_id: str

    @property
    def network(self) -> Target:
        """The converted network, in eval mode on the CPU."""
        return self.converted.network

    @property
    def evaluation(self) -> Evaluation:
        """Its quality and costs."""
        return self.converted.evaluation

    def table(self) -> tuple[list[str], list[list[str]]]:
        """Columns and rows: one row per block, one column per stage; higher is more similar."""
        evaluation = self.converted.evaluation
        stages = (stage for stages in evaluation.similarities.values() for stage in stages)
        last = max(stages, default=-1)
        rows = [
            [evaluation.architecture.label(position)]
            + [f"{stages[s]:.3f}" if s in stages else "" for s in range(last + 1)]
            for position, stages in evaluation.similarities.items()
        ]
        return ["block", *(f"stage {stage}" for stage in range(last + 1))], rows


@dataclass(frozen=True)
class Replacing:
    """One way to replace a guide's parts, whose half-converted networks are scored.

    Attributes:
        bare: number of blocks without parameters, which are in place from the first stage on.
    """

    recipe: Recipe
    stages: tuple[Stage, ...]
    bare: int

    @property
    def label(self) -> str:
        # Without the fingerprint of a user's own schedule: MLflow allows no "@" in metric names.
        return f"{self.recipe.schedule.partition('@')[0]}-{self.recipe.order}"

    def points(self, evaluation: Evaluation, guide: float) -> list[tuple[int, float]]:
        """Number of replaced blocks and quality, from the guide to the target."""
        scored = [p for p in evaluation.curve if p.metric.startswith("hybrid/")]
        return [(0, guide)] + [
            (len(self.stages[p.step].replaced) + self.bare, p.value) for p in scored
        ]


@dataclass(frozen=True)
class ConversionSettings:
    """Where a conversion runs and what it writes.

    Attributes:
        out: folder for the network and its pictures; `nas_theseus.load` reads it.
        storage: folder of guides, library and searches.
        seed: of the conversion.
        device: ``cpu`` or ``cuda``.
        replacements: score the half-converted network after every stage, for this schedule and
            for `naive`, each in both orders; only the first one is trained after its stages.
    """

    out: Path = Path("converted")
    storage: Path = Path("theseus")
    seed: int = 0
    device: str = "cpu"
    replacements: bool = False


def convert(
    space: str | Path,
    architecture: str,
    *,
    settings: ConversionSettings | None = None,
    say: Callable[[str], None] = print,
    **changes: Any,
) -> Conversion:
    """Convert one architecture in this process; the network and pictures go to a folder.

    ::

        made = nas_theseus.convert("space.py", "3f2a…", schedule="naive", epochs=1)
        made.network

    Args:
        space: the space file. Its code is run.
        architecture: id of an architecture that a search evaluated, or a JSON file.
        settings: Default: into ``converted/``, with the searches in ``theseus/``.
        say: shows one line.
        changes: settings of the space's recipe, such as ``schedule="naive"``.

    Raises:
        TheseusError: as `convert_one`.
    """
    assignments = [f"{name}={json.dumps(value)}" for name, value in changes.items()]
    return convert_one(
        Path(space), architecture, assignments, settings or ConversionSettings(), say
    )


def convert_one(
    space_file: Path,
    architecture: str,
    changes: Sequence[str],
    settings: ConversionSettings,
    say: Callable[[str], None],
) -> Conversion:
    """Convert one architecture; write it and its pictures to a folder, and both to MLflow.

    Args:
        architecture: id of one that a search in the storage folder evaluated, or a JSON file.
        changes: recipe settings that differ from the space's, such as ``schedule=naive``.

    Raises:
        SpaceError: settings are wrong, the architecture is not of this space, or there is nothing
            to replace by stages.
        StorageError: no such architecture, or `out` cannot be written.
        ServiceError: MLflow does not answer.
        ConversionError: there is no such device, or the conversion diverged.
    """
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise ConversionError("torch sees no GPU on this machine; leave --gpu out")
    sources = gather(space_file)
    space = load_space(sources, portable=True)
    refuse_mistakes(space, str(space_file))
    recipe = changed(space.recipe, changes)
    space = replace(space, recipe=recipe)  # it also sets the size of the workshop's sample
    chosen = find_architecture(architecture, settings.storage)
    refusal = space.refusal(chosen)
    if refusal is not None:
        raise SpaceError(f"architecture {architecture}", [refusal])
    chosen = chosen.named(space.guide.names)
    target = assemble(space, chosen, 0)
    ways = ways_to_replace(target, recipe) if settings.replacements else []
    parameters = {
        "architecture": chosen.id,
        "pairing": chosen.pairing,
        "blocks": chosen.blocks,
        "space": space_file.name,
        "task": space.task.name,
        "seed": settings.seed,
        **{f"recipe.{name}": value for name, value in recipe.model_dump().items()},
    }
    tags = {"theseus.architecture": chosen.id}
    with recording(chosen.id, "conversion", parameters, tags) as run:
        make_folder(settings.out, "--out")
        workshop = _open_workshop(space, settings, say)
        library = Library(settings.storage / "library") if recipe.takes_blocks else None
        task = _Task(workshop, chosen, settings.seed, library)
        converted = task.convert(recipe, say, score_hybrids=settings.replacements)
        files = _write(space, converted, sources, settings.out)
        points: list[CurvePoint] = []
        if ways:
            runs = _replacements(task, converted.evaluation, ways, say)
            _write_replacements(space, runs, settings.out)
            files |= {REPLACEMENTS_FILE: None, REPLACEMENTS_JSON: None}
            points = [
                CurvePoint(f"replacements/{label}", count, value)
                for label, found in runs.items()
                for count, value in found
            ]
        run.keep(converted.evaluation, points, settings.out, files)
    return Conversion(converted, run.run_id)


def _open_workshop(
    space: SearchSpace, settings: ConversionSettings, say: Callable[[str], None]
) -> Workshop:
    """The workshop of a space, its guide prepared."""
    device = torch.device(settings.device)
    prepare_guide(
        space.guide,
        space.learnt_from,
        space.guide_training,
        settings.storage / "guides",
        device,
        lambda epoch: say(f"guide: epoch {epoch.epoch + 1}, loss {epoch.loss:.4f}"),
        say,
    )
    meter = None
    if space.measured_by_block:
        meter = BlockMeter(settings.storage / TABLE_FILE, device, guide=space.guide)
    return Workshop(space, device, settings.storage / "guide_work", meter)


def _write(
    space: SearchSpace, converted: Converted, sources: Sources, out: Path
) -> dict[str, str | None]:
    """Write network and pictures; returns each file with its folder in a run's artifacts."""
    evaluation = converted.evaluation
    weights = out / "weights.safetensors"
    write_tensors(weights, plain_state(converted.network))
    write_member(out, evaluation, weights, sources)
    write_picture(similarity_picture(evaluation), out / SIMILARITY_FILE)
    write_picture(chain_picture(space, evaluation.architecture), out / CHAIN_FILE)
    # Files of an earlier conversion into this folder would look like this one's.
    for name in (REPLACEMENTS_FILE, REPLACEMENTS_JSON):
        (out / name).unlink(missing_ok=True)
    return {**dict.fromkeys(member_files(out), "network"), SIMILARITY_FILE: None, CHAIN_FILE: None}


@dataclass(frozen=True)
class _Task:
    """An architecture to convert, by any recipe."""

    workshop: Workshop
    architecture: Architecture
    seed: int
    library: Library | None

    def convert(
        self, recipe: Recipe, say: Callable[[str], None], *, score_hybrids: bool
    ) -> Converted:
        """Convert by a recipe, showing every point of its curves."""
        for event in self.workshop.convert(
            self.architecture,
            self.seed,
            recipe,
            library=self.library,
            score_hybrids=score_hybrids,
        ):
            if isinstance(event, Progress):
                for point in event.points:
                    say(f"{event.step}: {point.metric} at {point.step} = {point.value:.4f}")
            elif isinstance(event, Converted):
                return event
        raise ConversionError(f"the conversion of {self.architecture.id} ended without a result")


def ways_to_replace(target: Target, recipe: Recipe) -> list[Replacing]:
    """The recipe's own way first, then the other order, and `naive` in both orders.

    Ways with the same stages (one block; `joint` in reverse) are returned once.

    Raises:
        SpaceError: the recipe's schedule has no stages for this target.
    """
    bare = target.preserving.count(False) - len(target.replaced)
    other: Order = "reverse" if recipe.order == "forward" else "forward"
    schedules: tuple[str, ...] = (recipe.schedule, "naive")
    found: dict[tuple[Stage, ...], Replacing] = {}
    for schedule in schedules:
        for order in (recipe.order, other):
            way = recipe.model_copy(update={"schedule": schedule, "order": order})
            chain = tuple(stages(schedule, order, target.replaced))
            found.setdefault(chain, Replacing(way, chain, bare))
    if () in found:
        raise SpaceError(
            "--replacements",
            [
                f"schedule {recipe.schedule} replaces no block of this architecture by stages; "
                "use another schedule, or an architecture with new blocks that train"
            ],
        )
    return list(found.values())


def _replacements(
    task: _Task, evaluation: Evaluation, ways: Sequence[Replacing], say: Callable[[str], None]
) -> dict[str, list[tuple[int, float]]]:
    """Points of every way to replace; the first way is already converted."""
    own, *others = ways
    space = task.workshop.space
    guide = score(space.guide, space.task, "validation")
    found = {own.label: own.points(evaluation, guide)}
    for way in others:
        untrained = way.recipe.model_copy(update={"epochs": 0.0, "steps": 0})

        def show(line: str, label: str = way.label) -> None:
            say(f"{label}: {line}")

        converted = task.convert(untrained, show, score_hybrids=True)
        found[way.label] = way.points(converted.evaluation, guide)
    return found


def _write_replacements(
    space: SearchSpace, runs: dict[str, list[tuple[int, float]]], out: Path
) -> None:
    quality = Objective(space.metric, space.task.direction)
    write_picture(replacements_picture(runs, quality), out / REPLACEMENTS_FILE)
    # JSON has no infinity, which a perplexity may be.
    plain = {
        label: [[count, value if math.isfinite(value) else None] for count, value in points]
        for label, points in runs.items()
    }
    write_json(out / REPLACEMENTS_JSON, {"metric": space.metric, "runs": plain})

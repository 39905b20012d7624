"""One network whose cost is switched at run time, from all of a search's front."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.target import Target, assemble
from nas_theseus.costs import count_macs
from nas_theseus.errors import ShapeError, StorageError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.weights import load_weights
from nas_theseus.pictures.of_search import switching_picture
from nas_theseus.searches.beginning import read_space
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front, read_outcomes
from nas_theseus.services.mlflow import recording
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.stitching.stitchable import Direction, StitchableNet
from nas_theseus.stitching.training import train_stitches
from nas_theseus.stitching.windows import sliding_windows
from nas_theseus.storage.json_files import MALFORMED, read_json, text
from nas_theseus.storage.whole_files import replacing, write_json
from nas_theseus.tasks.score import score
from nas_theseus.values.ids import derive_seed
from nas_theseus.values.outcomes import CurvePoint, Evaluation
from nas_theseus.values.recipe import Recipe

GUIDE = "guide"
WEIGHTS_FILE, NETWORKS_FILE, PICTURE_FILE = "net.safetensors", "networks.json", "networks.png"


@dataclass(frozen=True)
class SwitchingSettings:
    """How a front is stitched together.

    Attributes:
        size, stride, direction: as `StitchableNet`. Windows of one by default, since a front's
            members have few similar boundaries.
        fit_examples: training inputs for least squares.
    """

    size: int = 1
    stride: int = 1
    direction: Direction = "fast-to-slow"
    fit_examples: int = 512
    seed: int = 0


def switch(
    name: str,
    *,
    storage: str | Path = "theseus",
    recipe: Recipe | None = None,
    settings: SwitchingSettings | None = None,
    trust_code: bool = False,
    say: Callable[[str], None] = print,
) -> StitchableNet:
    """Make one network of a search's front, whose cost is switched at run time.

    ::

        net = nas_theseus.switch("digits")
        net.select(3)  # another cost, at once

    Args:
        name: of the search.
        recipe: how the stitches are trained. Default: four epochs at 2e-3.
        settings: how the front is stitched together.
        trust_code: consent to run the search's copy of its space file, if it is not your own.
        say: shows one line.

    Raises:
        TheseusError: as `switch_front`.
    """
    net, _, _ = switch_front(
        SearchFolder(Path(storage), name),
        recipe or Recipe(epochs=4, learning_rate=2e-3),
        settings or SwitchingSettings(),
        device=torch.device("cpu"),
        trust_code=trust_code,
        say=say,
    )
    return net


def front_anchors(storage: SearchFolder, *, trust_code: bool = False) -> list[Anchor]:
    """A search's guide and the members of its front, as anchors of a stitchable network.

    A member is a chain of finetuned blocks and of guide parts that it keeps. A stitch joins two
    networks at boundaries with the same number of positions.

    Args:
        trust_code: consent to run the search's copy of its space file.

    Returns:
        By ascending MACs, without those that have no boundary that fits the next larger one.

    Raises:
        StorageError, SpaceError, GuideError: as `searches.beginning.read_space`; or no two can be
            stitched.
    """
    space = read_space(storage, trust_code=trust_code)
    guide = space.guide_architecture()
    anchors = [Anchor(GUIDE, space.guide, space.task)]
    for member in read_front(storage):
        evaluation = member.evaluation
        if evaluation.architecture != guide:
            target = assemble(space, evaluation.architecture, 0)
            load_weights(target, storage.weights_of(evaluation.name))
            anchors.append(_anchor(target, space))
    anchors.sort(key=lambda anchor: -count_macs(anchor.network, space.task.inlet))
    joined = anchors[:1]
    for anchor in anchors[1:]:
        if _fit(anchor, joined[-1]):
            joined.append(anchor)
    if len(joined) < 2:
        raise StorageError(
            f"the front of search {storage.name!r} has nothing to stitch: {len(anchors) - 1} "
            "members besides the guide, none with a boundary that has as many positions as one of "
            "the next larger network. Continue the search, or search with a smaller max_span"
        )
    return joined[::-1]


def _anchor(target: Target, space: SearchSpace) -> Anchor:
    parts = [(target.label(position), block) for position, block in enumerate(target.blocks)]
    guide = Guide(parts, space.task.inlet)
    return Anchor(target.architecture.id, guide.eval(), space.task)


def _fit(one: Anchor, other: Anchor) -> bool:
    try:
        sliding_windows(one.network.boundaries, other.network.boundaries, 1, 1)
    except ShapeError:
        return False
    return True


def switch_front(
    storage: SearchFolder,
    recipe: Recipe,
    settings: SwitchingSettings,
    *,
    device: torch.device,
    trust_code: bool,
    say: Callable[[str], None],
) -> tuple[StitchableNet, list[dict[str, Any]], Path]:
    """Make one network of a search's front: least squares, training of all stitches, validation.

    Weights, a table of all networks and a picture go to ``switching/`` in the search's folder and
    to an MLflow run with ``theseus.kind`` = ``switching``.

    Args:
        recipe: of `train_stitches`.

    Returns:
        The net on the CPU, one row per network (also in ``networks.json``), and the folder.

    Raises:
        ShapeError: the windows do not fit.
        ConversionError: too few examples for least squares, or training diverged.
        ServiceError: MLflow cannot be used.
        StorageError, SpaceError, GuideError: as `front_anchors`.
    """
    anchors = front_anchors(storage, trust_code=trust_code)
    task = anchors[0].task
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed("switching", settings.seed))
        net = StitchableNet(
            anchors, size=settings.size, stride=settings.stride, direction=settings.direction
        )
    say(f"{len(anchors)} anchors, {len(net.configs())} networks")
    parameters = {
        "search": storage.name,
        "task": task.name,
        **vars(settings),
        **{f"recipe.{name}": value for name, value in recipe.model_dump().items()},
    }
    folder = storage.folder / "switching"
    with recording(f"{storage.name} as one network", "switching", parameters) as run:
        net.to(device)
        net.fit(settings.fit_examples)
        points = []
        for event in train_stitches(net, task, recipe, settings.seed):
            if isinstance(event, EpochLoss):
                say(f"epoch {event.epoch + 1}, loss {event.loss:.4f}")
                points.append(CurvePoint("train_loss", event.epoch + 1, event.loss))
        metric = f"val_{task.metric}"
        rows: list[dict[str, Any]] = []
        for index, config in enumerate(net.configs()):
            net.select(index)
            quality = score(net, task, "validation")
            points.append(CurvePoint("macs", index, config.cost.macs))
            points.append(CurvePoint(metric, index, quality))
            rows.append(
                {
                    "index": index,
                    "network": str(config),
                    "anchor": config.stitch is None,
                    "macs": config.cost.macs,
                    "params": config.cost.params,
                    metric: quality,
                }
            )
        net.to("cpu")
        net.save(folder / WEIGHTS_FILE)
        write_json(folder / NETWORKS_FILE, {"anchors": net.names, "networks": rows})
        with replacing(folder / PICTURE_FILE) as aside:
            switching_picture(rows, metric, storage.name).savefig(aside, format="png")
        files = dict.fromkeys((WEIGHTS_FILE, NETWORKS_FILE, PICTURE_FILE))
        run.keep(None, points, folder, files)
    return net, rows, folder


def load_switching(storage: SearchFolder, *, trust_code: bool = False) -> StitchableNet:
    """The network that `switch` made, in eval mode on the CPU.

    Raises:
        StorageError: there is none, or results of its anchors are missing.
        SpaceError, GuideError: as `searches.beginning.read_space`; or the file is damaged.
    """
    table = storage.folder / "switching" / NETWORKS_FILE
    if not table.is_file():
        raise StorageError(
            f"search {storage.name!r} has no switching network; make it with 'nas-theseus switch "
            f"{storage.name}'"
        )
    try:
        names = list(map(text, read_json(table)["anchors"]))
    except (OSError, *MALFORMED) as error:
        raise StorageError(
            f"{table} is damaged ({error!r}); make the network again with 'nas-theseus switch "
            f"{storage.name}'"
        ) from error
    space = read_space(storage, trust_code=trust_code)
    evaluated = {
        outcome.architecture.id: outcome.architecture
        for outcome in read_outcomes(storage)
        if isinstance(outcome, Evaluation)
    }
    if missing := set(names) - {GUIDE} - set(evaluated):
        raise StorageError(
            f"results of {', '.join(sorted(missing))} are gone from {storage.evaluations}; make "
            f"the network again with 'nas-theseus switch {storage.name}'"
        )
    anchors = [
        Anchor(GUIDE, space.guide, space.task)
        if name == GUIDE
        else _anchor(assemble(space, evaluated[name], 0), space)
        for name in names
    ]
    return StitchableNet.load(table.with_name(WEIGHTS_FILE), anchors)

"""What one MLflow run is told, within MLflow's limits."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.tracking import MlflowClient

from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import CurvePoint, Evaluation, Outcome

# Limits of MLflow 3: entities a log_batch call, characters of a parameter and of a tag.
TAG_CHARACTERS = 8000
_BATCH, _PARAMS_BATCH, _PARAM_CHARACTERS = 1000, 100, 6000
# Of an id in a run's name, and of the kinds of blocks that it names.
_ID_CHARACTERS, _KINDS, _NAME_CHARACTERS = 8, 3, 100
_DATASET_CHARACTERS = 500


def shorten(text: str, limit: int) -> str:
    """Text cut to what MLflow takes."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def as_texts(parameters: Mapping[str, object]) -> dict[str, str]:
    """Parameters as MLflow keeps them."""
    return {
        name: shorten("none" if value is None else str(value), _PARAM_CHARACTERS)
        for name, value in parameters.items()
    }


def artifact_folder(place: str | None, file: str) -> str | None:
    """The artifact folder of a file that may lie in a folder of its own; None for the top.

    Args:
        place: artifact folder of the files.
        file: path from their folder on, such as ``sources/blocks.py``.
    """
    path = PurePosixPath(place or "", file).parent
    return str(path) if path.parts else None


def as_tags(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags as MLflow keeps them."""
    return {name: shorten(text, TAG_CHARACTERS) for name, text in tags.items()}


def run_name(architecture: Architecture) -> str:
    """What a person calls an architecture: the beginning of its id, and its new blocks by number.

    Such as ``3f2a90c1 depthwise ×3, linear``.
    """
    counts = Counter(one.block for one in architecture.choices if one.block != "keep")
    kinds = [f"{kind} ×{count}" if count > 1 else kind for kind, count in counts.most_common()]
    if len(kinds) > _KINDS:
        kinds = [*kinds[:_KINDS], f"{len(kinds) - _KINDS} more"]
    name = f"{architecture.id[:_ID_CHARACTERS]} {', '.join(kinds) or 'all parts kept'}"
    return shorten(name, _NAME_CHARACTERS)


def architecture_params(outcome: Outcome) -> dict[str, str]:
    """Parameters of an architecture's run."""
    architecture = outcome.architecture
    return {
        "architecture": architecture.id,
        "pairing": architecture.pairing,
        "blocks": architecture.blocks,
        "recipe": outcome.recipe,
        "seed": str(outcome.seed),
    }


def dataset_input(parameters: Mapping[str, str]) -> DatasetInput:
    """The data of a search as MLflow's data set, from the search's parameters.

    Args:
        parameters: with ``task``, ``space``, ``data.hash`` and ``data.SPLIT``, its sizes.
    """
    sizes = {
        name.removeprefix("data."): int(text)
        for name, text in parameters.items()
        if name.startswith("data.") and name != "data.hash"
    }
    dataset = Dataset(
        shorten(parameters["task"], _DATASET_CHARACTERS),
        parameters["data.hash"],
        "nas-theseus",
        json.dumps({"task": parameters["task"], "space": parameters["space"]}),
        profile=json.dumps({"num_rows": sum(sizes.values()), **sizes}),
    )
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "search")])


def evaluation_metrics(evaluation: Evaluation, time_ms: int) -> list[Metric]:
    """An evaluation's curve and its final values."""
    finals = {
        **evaluation.values(),
        "train_macs_spent": evaluation.train_macs_spent,
        "seconds": evaluation.seconds,
    }
    last: dict[str, CurvePoint] = {}
    for point in evaluation.curve:
        if point.metric not in last or point.step >= last[point.metric].step:
            last[point.metric] = point
    points = [Metric(p.metric, float(p.value), time_ms, p.step) for p in evaluation.curve]
    for name, value in finals.items():
        if name not in last:
            points.append(Metric(name, float(value), time_ms, 0))
        elif last[name].value != value:
            # The latest value is that of the last step and time: one millisecond later wins
            # over the curve's own last point (the best checkpoint may not be the last).
            points.append(Metric(name, float(value), time_ms + 1, last[name].step))
    return points


def write_run(
    client: MlflowClient,
    run_id: str,
    metrics: Sequence[Metric] = (),
    params: Mapping[str, str] | None = None,
    tags: Mapping[str, str] | None = None,
) -> None:
    """Add to a run in one call, or as few as MLflow's limits allow."""
    texts = [Param(k, shorten(v, _PARAM_CHARACTERS)) for k, v in (params or {}).items()]
    marks = [RunTag(k, v) for k, v in as_tags(tags or {}).items()]
    points = list(metrics)
    while texts or marks or points:
        some, others = texts[:_PARAMS_BATCH], marks[:_PARAMS_BATCH]
        room = _BATCH - len(some) - len(others)
        client.log_batch(run_id, points[:room], some, others)
        texts, marks, points = texts[_PARAMS_BATCH:], marks[_PARAMS_BATCH:], points[room:]

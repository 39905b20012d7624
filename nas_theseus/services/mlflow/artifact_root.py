"""Check where an experiment's artifacts go before a search works for hours towards them."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlflow.entities import Experiment, ViewType
from mlflow.tracking import MlflowClient

from nas_theseus.errors import ServiceError

_log = logging.getLogger(__name__)

CURE = (
    "set MLFLOW_EXPERIMENT_NAME to a new experiment, whose artifacts go to a folder of its own, or "
    "to one made with 'mlflow experiments create --experiment-name NAME --artifact-location FOLDER'"
)


def local_root(location: str) -> Path | None:
    """The folder of an artifact location; None if it is not on this machine's file system."""
    parts = urlsplit(location)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(location) if not parts.scheme else None


def check_artifact_root(client: MlflowClient, experiment: Experiment) -> None:
    """Refuse an artifact folder that cannot be written, and report one that has been lost.

    An experiment keeps the absolute path that it was made with: that of another machine or of a
    folder that was moved since. Artifacts in object stores and behind a server are not checked.

    Raises:
        ServiceError: the folder cannot be created or written.
    """
    root = local_root(experiment.artifact_location or "")
    if root is None:
        return
    lost = not root.exists() and _has_runs(client, experiment)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=root, prefix=".probe-"):
            pass
    except OSError as error:
        raise ServiceError(cannot_be_written(experiment, error)) from error
    if lost:
        _log.warning(
            "MLflow experiment %r has runs, but its artifact root %s did not exist: the folder was "
            "moved or deleted, or the database comes from elsewhere. It was created, and takes "
            "this run's artifacts. To keep them in another place, %s",
            experiment.name,
            root,
            CURE,
        )


def cannot_be_written(experiment: Experiment, error: OSError) -> str:
    """What is wrong with an experiment's artifact root, and what to do."""
    return (
        f"the artifact root {experiment.artifact_location} of MLflow experiment "
        f"{experiment.name!r} cannot be written: {error.strerror or error}. An experiment keeps "
        "the place that it was made with. Make that folder writable, or "
        f"{CURE}"
    )


def log_artifact(client: MlflowClient, run_id: str, path: Path, folder: str | None) -> None:
    """Upload one file of a run.

    Raises:
        OSError: the artifact root cannot be written; the message names experiment, root and cure.
        MlflowException: MLflow refuses.
    """
    try:
        client.log_artifact(run_id, str(path), folder)
    except OSError as error:
        experiment = client.get_experiment(client.get_run(run_id).info.experiment_id)
        if local_root(experiment.artifact_location or "") is None:
            raise
        raise OSError(cannot_be_written(experiment, error)) from error


def _has_runs(client: MlflowClient, experiment: Experiment) -> bool:
    return bool(
        client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL, max_results=1)
    )

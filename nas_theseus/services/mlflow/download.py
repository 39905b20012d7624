"""Fetch a found network from the MLflow run that keeps it."""

from __future__ import annotations

from pathlib import Path

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nas_theseus.errors import ServiceError
from nas_theseus.services.mlflow.connection import probe, quieten
from nas_theseus.storage.redaction import scrub, without_credentials

ARTIFACT = "network"


def download_network(run_id: str, folder: Path) -> Path:
    """Download the artifact `network` of a front member's run; runs none of its code.

    Args:
        run_id: 32 hexadecimal digits, as ``nas-theseus front NAME --json`` and MLflow's UI show.
        folder: an existing folder to put it into.

    Returns:
        Folder with the files that `nas_theseus.export.member.read_member` reads.

    Raises:
        ServiceError: MLflow does not answer, has no such run, or the run keeps no network.
    """
    uri = mlflow.get_tracking_uri()
    shown = without_credentials(uri)
    quieten()
    try:
        probe(uri)
        client = MlflowClient(uri)
        client.get_run(run_id)
        if not client.list_artifacts(run_id, ARTIFACT):
            raise ServiceError(
                f"run {run_id} of MLflow at {shown} keeps no network: only conversions and members "
                "of a front do, when the search has ended; \"tags.`theseus.front` = 'true'\" finds "
                "those"
            )
        return Path(client.download_artifacts(run_id, ARTIFACT, str(folder)))
    except (MlflowException, OSError, ValueError) as error:
        # The cause may hold the password, so it is not chained.
        raise ServiceError(
            f"cannot download the network of run {run_id} from MLflow at {shown}: "
            f"{scrub(str(error), uri)}. Is MLFLOW_TRACKING_URI that of the search?"
        ) from None

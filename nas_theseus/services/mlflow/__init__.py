"""MLflow: a projection of the search, written by one thread from a durable outbox."""

from __future__ import annotations

from nas_theseus.services.mlflow.connection import front_link
from nas_theseus.services.mlflow.download import download_network
from nas_theseus.services.mlflow.open_run import recording
from nas_theseus.services.mlflow.tracker import MlflowTracker
from nas_theseus.storage.redaction import without_credentials

__all__ = [
    "MlflowTracker",
    "download_network",
    "front_link",
    "recording",
    "without_credentials",
]

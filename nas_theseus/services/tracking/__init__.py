"""MLflow: a projection of the search, written by one thread from a durable outbox."""

from __future__ import annotations

from nas_theseus.redaction import without_credentials
from nas_theseus.services.tracking.connection import front_link
from nas_theseus.services.tracking.download import download_network
from nas_theseus.services.tracking.open_run import recording
from nas_theseus.services.tracking.tracker import Tracker

__all__ = ["Tracker", "download_network", "front_link", "recording", "without_credentials"]

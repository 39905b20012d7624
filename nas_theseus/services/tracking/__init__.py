"""MLflow: a projection of the search, written by one thread from a durable outbox."""

from __future__ import annotations

from nas_theseus.services.tracking.connection import front_link, without_credentials
from nas_theseus.services.tracking.tracker import Tracker

__all__ = ["Tracker", "front_link", "without_credentials"]

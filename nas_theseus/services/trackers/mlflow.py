"""The tracker "mlflow": one run for the search, with a child run for each architecture."""

from __future__ import annotations

from nas_theseus.searches.trackers import Tracker
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.values.tracking import TrackerContext


def tracker(context: TrackerContext) -> Tracker:
    """Make the tracker of a search; MLflow's environment variables choose server and experiment.

    Raises:
        ValueError: the search's name has a quote, which MLflow's queries do not allow.
    """
    return MlflowTracker(
        context.search, context.outbox, context.runs_file, identity=context.identity
    )


MEMBER = tracker

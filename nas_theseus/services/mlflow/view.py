"""A view of one search in MLflow's UI, opened by a link: columns, order, filter and charts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from urllib.parse import quote, urlencode

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nas_theseus.errors import ServiceError
from nas_theseus.services.mlflow.connection import connect, no_answer, probe, quieten
from nas_theseus.values.goals import Objective

# Where MLflow 3's own pages keep the views that its button "Share" makes, and how they find them.
_TAG, _KEY = "mlflow.sharedViewState.", "viewStateShareKey"
_SECTION = "nas-theseus"
_MOST_RUNS = 100


def search_link(
    server: str,
    search: str,
    identity: str,
    quality: Objective,
    costs: Sequence[Objective],
) -> str:
    """Save a view of a search's architectures with MLflow, and return its address.

    A table of the finished architectures with objectives, blocks and the mark of the front, sorted
    by the first cost, and charts: quality over each cost, and both as parallel coordinates.

    Args:
        server: address of the UI.
        identity: of the search, as the tag ``theseus.identity``.

    Raises:
        ServiceError: MLflow does not answer, refuses, or has no run of the search.
    """
    uri = mlflow.get_tracking_uri()
    quieten()
    try:
        probe(uri)
        client = connect(uri)
        experiment = _experiment_of(client, identity)
        if experiment is None:
            raise ServiceError(
                f"MLflow has no run of search {search!r}; is MLFLOW_TRACKING_URI that of the "
                "search, and did it run with the tracker mlflow?"
            )
        state = json.dumps(view_state(identity, quality, costs), separators=(",", ":"))
        client.set_experiment_tag(experiment, f"{_TAG}{share_key(identity)}", state)
    except (MlflowException, OSError, ValueError) as error:
        raise no_answer(uri, error) from None
    query = {
        _KEY: share_key(identity),
        "compareRunsMode": "CHART",
        "workflowType": "machine_learning",
    }
    page = f"#/experiments/{experiment}/runs?{urlencode(query, quote_via=quote)}"
    return f"{server.rstrip('/')}/{page}"


def share_key(identity: str) -> str:
    """What the link calls the view; a later one of the same search replaces it."""
    return f"theseus-{identity}"


def view_state(identity: str, quality: Objective, costs: Sequence[Objective]) -> dict[str, object]:
    """The view as MLflow's pages read it."""
    goals = [quality.name, *(cost.name for cost in costs)]
    order = costs[0].name if costs else quality.name
    section = {"uuid": _SECTION, "name": _SECTION, "display": True, "isReordered": False}
    charts = [_scatter(quality.name, cost.name) for cost in costs]
    if len(goals) > 1:
        charts.append(_parallel([*goals[1:], goals[0]]))
    return {
        "searchFilter": f"tags.\"theseus.identity\" = '{identity}' and "
        "tags.\"theseus.kind\" = 'architecture' and attributes.status = 'FINISHED'",
        "orderByKey": f"metrics.`{order}`",
        "orderByAsc": bool(costs),
        "selectedColumns": [
            *(f"metrics.`{goal}`" for goal in goals),
            "tags.`theseus.front`",
            "tags.`theseus.rank`",
            "params.`blocks`",
            "params.`pairing`",
        ],
        "runsHiddenMode": "SHOW_ALL",
        "compareRunSections": [section],
        "compareRunCharts": charts,
    }


def _experiment_of(client: MlflowClient, identity: str) -> str | None:
    """Id of the experiment that has a search's runs."""
    ids = [one.experiment_id for one in client.search_experiments()]
    found = client.search_runs(ids, f"tags.`theseus.identity` = '{identity}'", max_results=1)
    return found[0].info.experiment_id if found else None


def _scatter(quality: str, cost: str) -> dict[str, object]:
    axes = {
        axis: {"key": name, "type": "METRIC"}
        for axis, name in (("xaxis", cost), ("yaxis", quality))
    }
    name = f"{quality} over {cost}"
    return {**_chart("SCATTER", name), **axes, "runsCountToCompare": _MOST_RUNS}


def _parallel(metrics: Sequence[str]) -> dict[str, object]:
    chosen = {"selectedMetrics": list(metrics), "selectedParams": [], "showAllRuns": True}
    return {**_chart("PARALLEL", "costs and quality"), **chosen}


def _chart(kind: str, name: str) -> dict[str, object]:
    return {
        "type": kind,
        "uuid": f"{_SECTION} {name}",
        "displayName": name,
        "metricSectionId": _SECTION,
        "isGenerated": False,
        "deleted": False,
    }

"""Real servers on loopback: a study in PostgreSQL, and MLflow behind its server with another."""

from __future__ import annotations

import json
import statistics
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.scale_driver import LongSearch, measure_recorded, settings_of
from nas_theseus.services.mlflow.connection import EXPERIMENT, connect, find_experiment
from tests.faults.services import MlflowServer, Postgres

QUERY_REPEATS = 5
_PAGE = 1000


@dataclass(frozen=True)
class Servers:
    """Addresses of servers that run.

    Attributes:
        study: of a PostgreSQL database for studies.
        mlflow: of MLflow's server, whose runs are in another database of the same PostgreSQL.
    """

    study: str
    mlflow: str


@contextmanager
def servers(folder: Path) -> Iterator[Servers]:
    """PostgreSQL and MLflow's server, until the end of the block."""
    folder.mkdir()
    folder.chmod(0o755)  # PostgreSQL runs as another user
    database = Postgres(folder / "postgres")
    database.start()
    try:
        database.create("mlflow")
        server = MlflowServer(folder / "mlflow", database.uri(database="mlflow"))
        server.start()
        try:
            find_experiment(connect(server.uri), EXPERIMENT)  # its first answers take seconds
            yield Servers(database.uri(), server.uri)
        finally:
            server.stop()
    finally:
        database.stop()


@contextmanager
def new_folder() -> Iterator[Path]:
    """A folder for one measurement, which PostgreSQL's user can pass."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def measure_services(lengths: Sequence[int], measured: int) -> Iterator[dict[str, Any]]:
    """One cell for each length of a search with NSGA-II, its study and MLflow behind servers."""
    with new_folder() as folder, servers(folder / "servers") as at:
        settings = settings_of(folder / "search", max(lengths), "nsga2", at.study)
        search = LongSearch(settings, at.mlflow)
        for cell in measure_recorded(search, lengths, measured):
            yield {"kind": "services", **cell}
        if search.tracker is not None:
            search.tracker.end("FINISHED")


class Pages:
    """What MLflow's pages ask its server, over HTTP.

    Args:
        server: address of MLflow's server.
        experiment: name of an experiment.
    """

    def __init__(self, server: str, experiment: str = EXPERIMENT) -> None:
        self._server = server
        found = self._get("experiments/get-by-name", f"experiment_name={experiment}")
        self._experiment = found["experiment"]["experiment_id"]

    def _get(self, path: str, query: str) -> dict[str, Any]:
        return self._answer(urllib.request.Request(f"{self._url(path)}?{query}"))

    def _url(self, path: str) -> str:
        return f"{self._server}/ajax-api/2.0/mlflow/{path}"

    @staticmethod
    def _answer(request: urllib.request.Request) -> dict[str, Any]:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return dict(json.load(answer))

    def search(self, query: str, order: str, most: int = 100, token: str = "") -> dict[str, Any]:
        """Runs of the experiment, as the page with its list of runs asks for them."""
        body = {
            "experiment_ids": [self._experiment],
            "filter": query,
            "run_view_type": "ACTIVE_ONLY",
            "max_results": most,
            "order_by": [order] if order else [],
            **({"page_token": token} if token else {}),
        }
        return self._answer(
            urllib.request.Request(
                self._url("runs/search"),
                json.dumps(body).encode(),
                {"Content-Type": "application/json"},
            )
        )

    def all_runs(self) -> Iterator[dict[str, Any]]:
        """Every run of the experiment, with its tags as a mapping."""
        token = ""
        while True:
            page = self.search("", "", _PAGE, token)
            for run in page.get("runs", []):
                tags = {tag["key"]: tag["value"] for tag in run["data"].get("tags", [])}
                yield {**run["info"], "tags": tags}
            token = page.get("next_page_token", "")
            if not token:
                return

    def queries(self, search: str, metric: str, parent: str) -> dict[str, float]:
        """Median milliseconds of each query that the pages of one search make.

        Args:
            search: name of a search.
            parent: id of its run.
        """
        own = f"tags.`theseus.search` = '{search}'"
        on_front = "tags.`theseus.front` = 'true'"
        asked: Mapping[str, Any] = {
            "newest": lambda: self.search("", "attributes.start_time DESC"),
            "search": lambda: self.search(own, f"metrics.`{metric}` DESC"),
            "front": lambda: self.search(f"{own} AND {on_front}", "metrics.`macs` ASC", _PAGE),
            "fronts": lambda: self.search(on_front, "metrics.`macs` ASC"),
            "run": lambda: self._get("runs/get", f"run_id={parent}"),
            "chart": lambda: self._get(
                "metrics/get-history", f"run_id={parent}&metric_key=hypervolume"
            ),
        }
        return {name: _median_ms(ask) for name, ask in asked.items()}


def _median_ms(ask: Any) -> float:
    taken = []
    for _ in range(QUERY_REPEATS):
        began = time.perf_counter()
        ask()
        taken.append(1e3 * (time.perf_counter() - began))
    return statistics.median(taken)

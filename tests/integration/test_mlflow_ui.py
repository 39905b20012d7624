"""The front in MLflow's own pages, as a browser shows them to a user who enters the query."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import mlflow
import pytest
from mlflow.tracking import MlflowClient

import nas_theseus
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow.runs import run_name
from nas_theseus.services.mlflow.view import search_link
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.tracking import FrontNow
from tests.integration.browser import Browser, chromium, free_port, server
from tests.unit.api.found_search import TRACED, FoundSearch

FRONT = "tags.\"theseus.front\" = 'true'"
SMALL = f"{FRONT} and metrics.macs < 2000000"
SEARCH_BOX = "input[placeholder*='metrics.rmse']"
RUN_LINKS = "a[href*='/runs/']"


def evaluation(width: int) -> Evaluation:
    return Evaluation(
        architecture=Architecture((BlockChoice(Span(0, 2), "depthwise", (("expand", width),)),)),
        recipe="full",
        seed=3,
        metrics={"val_accuracy": 0.7 + width / 100},
        cost=Cost({"macs": 600_000 * width, "params": 1000 * width}),
        train_macs_spent=12345,
        seconds=2.5,
        curve=(),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ui")


@pytest.fixture(scope="module")
def store(folder: Path) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as monkeypatch:
        # MLflow keeps artifacts of a SQLite store under the working folder.
        monkeypatch.chdir(folder)
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
        yield record(folder)


def record(folder: Path) -> str:
    """A search with a front of three; returns the store's address."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracker = MlflowTracker("first", folder / "outbox", folder / "runs.json", tracking_uri=uri)
    tracker.begin({"trials": 5, "seed": 7})
    try:
        for width in range(1, 6):
            tracker.outcome(evaluation(width))
        members = tuple(evaluation(width).architecture.id for width in (5, 1, 3))
        tracker.front(FrontNow(members, {"hypervolume": 0.5, "front_size": 3}, step=5))
    finally:
        left = tracker.end()
    assert left == 0
    return uri


@pytest.fixture(scope="module")
def address(store: str, folder: Path) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    with server(command, f"http://127.0.0.1:{port}/health", folder / "ui.log") as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("query", "widths"), [(SMALL, [1, 3]), (FRONT, [1, 3, 5])], ids=["small", "front"]
)
def test_query_shows_the_front(
    browser: Browser, address: str, store: str, query: str, widths: list[int]
) -> None:
    expected = [run_name(evaluation(width).architecture) for width in widths]
    mlflow.set_tracking_uri(store)
    try:
        found = mlflow.search_runs(
            experiment_names=["nas-theseus"],
            filter_string=query,
            order_by=["metrics.macs"],
            output_format="list",
        )
    finally:
        mlflow.set_tracking_uri("")
    assert [run.info.run_name for run in found] == expected

    experiment = MlflowClient(store).get_experiment_by_name("nas-theseus")
    assert experiment is not None
    # Sorted by creation, MLflow's default, matches fold into their search's run, with a + to open.
    view = {
        "workflowType": "machine_learning",
        "searchFilter": query,
        "orderByKey": "metrics.`macs`",
        "orderByAsc": "true",
    }
    page = f"#/experiments/{experiment.experiment_id}/runs?{urlencode(view, quote_via=quote)}"
    browser.open(f"{address}/{page}")

    def shown() -> list[str]:
        # In one step: the page may draw its rows anew between two.
        script = "return [...document.querySelectorAll(arguments[0])].map(a => a.innerText)"
        return list(browser.run(script, RUN_LINKS))

    def counted() -> bool:
        return f"{len(expected)} matching runs" in browser.text and len(shown()) > 0

    browser.wait(counted)
    assert shown() == expected
    browser.picture(f"mlflow-front-{len(expected)}")
    value = "return document.querySelector(arguments[0]).value"
    assert browser.run(value, SEARCH_BOX) == query


def wait_for_text(browser: Browser, *wanted: str) -> None:
    """Wait until the page shows all of these texts."""
    browser.wait(lambda: all(one in browser.text for one in wanted), 90)


@pytest.mark.slow
def test_the_view_of_a_search_has_its_charts_columns_and_order(
    browser: Browser, address: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    goals = Objective("val_accuracy", "maximize"), [Objective("macs", "minimize")]
    link = search_link(address, "first", "first", *goals)
    browser.open(link)
    names = [run_name(evaluation(width).architecture) for width in range(1, 6)]
    wait_for_text(browser, "macs vs. val_accuracy", "Parallel Coordinates", *names)
    drawn = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
    browser.wait(lambda: browser.run(drawn) == 5)
    browser.picture("mlflow-view")

    browser.open(link.replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    wait_for_text(browser, "5 matching runs", "val_accuracy", "macs", "blocks", *names)

    def shown() -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(a => a.innerText)"
        return list(browser.run(script, RUN_LINKS))

    browser.wait(lambda: shown() == names)


@pytest.mark.slow
def test_the_models_tab_shows_a_registered_network(
    browser: Browser,
    address: str,
    store: str,
    tmp_path: Path,
    toy_space_text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    FoundSearch(tmp_path, toy_space_text).finish()
    nas_theseus.register("found", TRACED.id, alias="champion", storage="storage", trust_code=True)
    experiment = MlflowClient(store).get_experiment_by_name("nas-theseus")
    assert experiment is not None
    page = f"#/experiments/{experiment.experiment_id}/models?workflowType=machine_learning"
    browser.open(f"{address}/{page}")
    wait_for_text(browser, TRACED.id, "Ready", run_name(TRACED), "found", "v1")
    browser.picture("mlflow-models")

"""The front in MLflow's own pages, as a browser shows them to a user who enters the query."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import mlflow
import numpy as np
import pytest
from mlflow.tracking import MlflowClient
from PIL import Image

import nas_theseus
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow.runs import run_name
from nas_theseus.services.mlflow.view import search_link
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.goals import Objective
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.tracking import FrontNow
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


def wait_for(reached: Callable[[], bool], seconds: float, what: Callable[[], str]) -> None:
    end = time.monotonic() + seconds
    while not reached():
        assert time.monotonic() < end, what()
        time.sleep(0.2)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    # MLflow keeps artifacts of a SQLite store under the working folder.
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    tracker = MlflowTracker("first", tmp_path / "outbox", tmp_path / "runs.json", tracking_uri=uri)
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


@pytest.fixture
def address(store: str, tmp_path: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", store, "--workers", "1"]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    log = tmp_path / "ui.log"

    def answers() -> bool:
        try:
            with urllib.request.urlopen(f"{address}/health", timeout=1):
                return True
        except OSError:
            return False

    with log.open("wb") as output:
        server = subprocess.Popen(
            command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        wait_for(answers, 90, lambda: f"mlflow ui does not answer:\n{log.read_text()}")
        yield address
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


@pytest.fixture
def browser() -> Iterator[Any]:
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    service = pytest.importorskip("selenium.webdriver.chrome.service")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.add_argument("--window-size=1500,900")
    browser = webdriver.Chrome(options=options, service=service.Service(driver))
    try:
        yield browser
    finally:
        browser.quit()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("query", "widths"), [(SMALL, [1, 3]), (FRONT, [1, 3, 5])], ids=["small", "front"]
)
def test_query_shows_the_front(
    browser: Any, address: str, store: str, query: str, widths: list[int]
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
    browser.get(f"{address}/{page}")

    def text() -> str:
        return str(browser.execute_script("return document.body.innerText"))

    def shown() -> list[str]:
        # In one step: the page may draw its rows anew between two.
        script = "return [...document.querySelectorAll(arguments[0])].map(a => a.innerText)"
        return list(browser.execute_script(script, RUN_LINKS))

    def counted() -> bool:
        return f"{len(expected)} matching runs" in text() and len(shown()) > 0

    wait_for(counted, 60, lambda: f"the page shows:\n{text()}")
    assert shown() == expected
    assert browser.find_element("css selector", SEARCH_BOX).get_attribute("value") == query


def wait_for_text(browser: Any, *wanted: str) -> None:
    """Wait until the page shows all of these texts."""

    def text() -> str:
        return str(browser.execute_script("return document.body.innerText"))

    wait_for(lambda: all(one in text() for one in wanted), 90, lambda: f"it shows:\n{text()}")


def screenshot(browser: Any, path: Path) -> None:
    """Save what the browser shows, and check that it is no empty page."""
    time.sleep(2.0)  # charts are drawn in steps
    browser.save_screenshot(str(path))
    assert len(np.unique(np.asarray(Image.open(path).convert("L")))) > 16


@pytest.mark.slow
def test_the_view_of_a_search_has_its_charts_columns_and_order(
    browser: Any, address: str, store: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    goals = Objective("val_accuracy", "maximize"), [Objective("macs", "minimize")]
    link = search_link(address, "first", "first", *goals)
    browser.get(link)
    names = [run_name(evaluation(width).architecture) for width in range(1, 6)]
    wait_for_text(browser, "val_accuracy over macs", "costs and quality", *names)
    drawn = "return document.querySelectorAll('.js-plotly-plot .scatterlayer .point').length"
    wait_for(lambda: browser.execute_script(drawn) == 5, 60, lambda: "the chart has other points")
    screenshot(browser, tmp_path / "view.png")

    browser.get(link.replace("compareRunsMode=CHART", "compareRunsMode=TABLE"))
    wait_for_text(browser, "5 matching runs", "val_accuracy", "macs", "blocks", *names)

    def shown() -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(a => a.innerText)"
        return list(browser.execute_script(script, RUN_LINKS))

    wait_for(lambda: shown() == names, 60, lambda: f"runs in another order: {shown()}")


@pytest.mark.slow
def test_the_models_tab_shows_a_registered_network(
    browser: Any,
    address: str,
    store: str,
    tmp_path: Path,
    toy_space_text: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    FoundSearch(tmp_path, toy_space_text).finish()
    nas_theseus.register("found", TRACED.id, alias="champion", storage="storage", trust_code=True)
    experiment = MlflowClient(store).get_experiment_by_name("nas-theseus")
    assert experiment is not None
    page = f"#/experiments/{experiment.experiment_id}/models?workflowType=machine_learning"
    browser.get(f"{address}/{page}")
    wait_for_text(browser, TRACED.id, "found v1", "val_accuracy", "macs")
    screenshot(browser, tmp_path / "models.png")

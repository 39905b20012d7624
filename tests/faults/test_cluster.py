"""A search on a Ray cluster of several nodes, which die while they hold its trials."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import SPACE, Inline, Results, Search, settle
from tests.faults.counts import Fault
from tests.faults.ray_nodes import RayCluster
from tests.faults.services import MlflowServer, Postgres

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]


@pytest.fixture
def cluster() -> Iterator[RayCluster]:
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        made = RayCluster(Path(name))
        try:
            made.start()
            yield made
        finally:
            made.stop()


def test_nodes_that_are_killed_with_their_trials(
    undisturbed: Search, cluster: RayCluster, tmp_path: Path, fault: Fault
) -> None:
    """One trial at a time: the front is that of the undisturbed search, too."""
    search = Search(
        tmp_path / "a folder", undisturbed.trials, ("--address", cluster.address),
        cluster.environment,
    )  # fmt: skip
    node = cluster.add()
    driver = search.start()
    kept: Results = {}
    for count in (1, 3):
        search.wait_for(count)
        kept = search.results()
        cluster.kill(node)
        fault.kills, fault.finished = fault.kills + 1, fault.finished + len(kept)
        node = cluster.add()
    search.end(driver)
    settle(search, fault, kept, undisturbed.values())
    assert search.front() == undisturbed.front()


def test_a_node_that_is_killed_with_half_of_the_trials(
    cluster: RayCluster, tmp_path: Path, fault: Fault
) -> None:
    # Two at a time end in any order, on which random proposals alone do not depend.
    proposals = ("--sampler", "random")
    whole = Inline(tmp_path / "whole", 6, proposals)
    whole.finish()
    search = Search(
        tmp_path / "search", whole.trials, (*proposals, "--address", cluster.address),
        cluster.environment,
    )  # fmt: skip
    nodes = [cluster.add(), cluster.add()]
    driver = search.start(parallel=2)
    search.wait_for(2)
    kept = search.results()
    cluster.kill(nodes[0])
    fault.kills, fault.finished = 1, len(kept)
    search.end(driver)
    settle(search, fault, kept, whole.values())


def test_a_head_that_is_killed_is_named_and_another_goes_on(
    undisturbed: Search, cluster: RayCluster, tmp_path: Path, fault: Fault
) -> None:
    search = Search(
        tmp_path / "search", undisturbed.trials, ("--address", cluster.address),
        cluster.environment,
    )  # fmt: skip
    cluster.add()
    driver = search.start()
    search.wait_for(1)
    cluster.stop()
    fault.kills, kept = 1, search.results()
    assert driver.wait(180) != 0
    fault.finished = len(kept)
    assert "Ray's head" in search.output and "the same command continues" in search.output
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as name:
        other = RayCluster(Path(name))
        try:
            other.start()
            other.add()
            search.options, search.environment = ("--address", other.address), other.environment
            search.finish()
            settle(search, fault, kept, undisturbed.values())
        finally:
            other.stop()
    assert search.front() == undisturbed.front()


# The user's own block, beside the space file and installed nowhere.
MINE = """
from torch import nn

from nas_theseus.blocks import downsampling


class Narrow(nn.Module):
    def __init__(self, inlet, outlet):
        super().__init__()
        self.first = nn.Conv2d(inlet.width, 4, 1, downsampling(inlet, outlet))
        self.last = nn.Conv2d(4, outlet.width, 1)

    def forward(self, x):
        return self.last(self.first(x).relu())
"""
OWN_SPACE = SPACE.replace(
    "from nas_theseus.tasks", "from mine import Narrow\nfrom nas_theseus.tasks"
)
OWN_SPACE = OWN_SPACE.replace("import Recipe", "import Recipe, block")
OWN_SPACE = OWN_SPACE.replace("Linear()]", "block(Narrow)]")


def test_a_job_from_a_folder_that_holds_a_search_space_alone(
    cluster: RayCluster, mlflow_server: MlflowServer, postgres: Postgres, tmp_path: Path,
    fault: Fault,
) -> None:  # fmt: skip
    """Three nodes, Optuna's study in PostgreSQL, MLflow over HTTP; one node is killed."""
    nodes = [cluster.add() for _ in range(3)]
    postgres.create("optuna")
    study = postgres.uri(database="optuna")
    secret = {"MLFLOW_TRACKING_URI": mlflow_server.uri, "NAS_THESEUS_STUDY": study}
    search = Search(
        tmp_path / "my space", 9, ("--no-rungs",), secret, storage=tmp_path / "shared",
        text=OWN_SPACE,
    )  # fmt: skip
    (search.folder / "mine.py").write_text(MINE)
    assert {path.name for path in search.folder.iterdir()} == {"small.py", "mine.py"}
    # The job's environment as a JSON file, not as an option that every user can list.
    runtime = tmp_path / "runtime.yaml"
    runtime.write_text("env_vars:\n" + "".join(f"  {k}: {v!r}\n" for k, v in secret.items()))
    ray = str(Path(sys.executable).parent / "ray")
    submitted = [ray, "job", "submit", "--address", cluster.dashboard, "--no-wait",
                 "--submission-id", "search", "--working-dir", str(search.folder),
                 "--runtime-env", str(runtime), "--",
                 sys.executable, "-m", "nas_theseus", "search", "small.py", "--address", "auto",
                 "--trials", str(search.trials), "--parallel", "3", *search.options]  # fmt: skip
    environment = {**os.environ, **cluster.environment}
    end = time.monotonic() + 1500
    while (
        told := subprocess.run(
            submitted, env=environment, capture_output=True, text=True, cwd=tmp_path
        )
    ).returncode:
        # On a busy machine the head takes jobs only a while after it answers.
        assert "try again later" in told.stderr and time.monotonic() < end, told.stderr[-3000:]
        time.sleep(2)
    # From now on the user's folder is nowhere: what the workers run has travelled.
    search.folder.rename(tmp_path / "gone")

    def asked(*words: str) -> str:
        command = [ray, "job", *words, "--address", cluster.dashboard, "search"]
        return subprocess.run(command, env=environment, capture_output=True, text=True,
                              check=True, cwd=tmp_path).stdout  # fmt: skip

    seldom = itertools.cycle(range(100))
    while len(kept := search.results()) < 3:
        if next(seldom) == 99:  # the question takes seconds
            assert "failed" not in asked("status") and time.monotonic() < end, asked("logs")[-3000:]
        time.sleep(0.2)
    cluster.kill(nodes[0])
    fault.kills, fault.finished = 1, len(kept)
    while "succeeded" not in (status := asked("status")):
        assert "failed" not in status and time.monotonic() < end, asked("logs")[-5000:]
        time.sleep(2)
    said = asked("logs")
    assert f"{search.trials} trials are done" in said and postgres.password not in said
    assert any("Narrow" in name or "narrow" in name for name in used_blocks(search))
    assert len(search.results()) == search.trials
    settle(search, fault, kept, search.values())


def used_blocks(search: Search) -> set[str]:
    """Names of the blocks of all its results."""
    return {choice.block for outcome in search.storage.outcomes()
            for choice in outcome.architecture.choices}  # fmt: skip

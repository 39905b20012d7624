"""A Ray cluster of several nodes is asked for what a search needs before anything is trained."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from nas_theseus.errors import ServiceError
from nas_theseus.services.ray.executor import RayExecutor
from nas_theseus.services.ray.nodes import check_nodes
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.events import Ended
from nas_theseus.values.resources import Resources
from nas_theseus.values.settings import ExecutorSettings

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


@contextmanager
def cluster_of(*cpus: int) -> Iterator[Cluster]:
    """A head and other nodes; they share a session folder, as nodes of one machine do."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": cpus[0]})
    try:
        for more in cpus[1:]:
            made.add_node(num_cpus=more)
        yield made
    finally:
        made.shutdown()


def test_a_cluster_is_asked_for_its_storage_and_for_room_for_a_trial(tmp_path: Path) -> None:
    with cluster_of(0, 1, 2) as cluster:
        settings = ExecutorSettings(address=cluster.address, resources=Resources(cpus=2))
        executor = RayExecutor(settings, tmp_path / "log")
        executor.open()
        try:
            check_nodes(tmp_path / "storage")
            assert list((tmp_path / "storage").iterdir()) == []
        finally:
            executor.close()
        too_large = settings.model_copy(update={"resources": Resources(cpus=3)})
        with pytest.raises(ServiceError, match=r"asks for 3 CPU.*--cpus-per-trial") as refusal:
            RayExecutor(too_large, tmp_path / "log").open()
    assert all(f" {cpus} CPU, 0 GPU" in str(refusal.value) for cpus in (0, 1, 2))


class Jobs:
    """Three architectures, and how they ended."""

    def __init__(self) -> None:
        self.all = [Architecture((BlockChoice(Span(0, 1), name),)) for name in ("a", "b", "c")]
        self.waiting = list(self.all)
        self.failures: list[str | None] = []

    def next(self) -> Architecture | None:
        return self.waiting.pop(0) if self.waiting else None

    def reported(self, job: Architecture, stage: str) -> None:
        """Nothing."""

    def ended(self, job: Architecture, failure: str | None) -> None:
        self.failures.append(failure)


def test_trials_run_where_labels_are_as_wanted(tmp_path: Path) -> None:
    class Seen:
        """Saves the labels of its node; inside the test, so that Ray sends it by value."""

        def __call__(self, job: Architecture) -> Iterator[str | Ended]:
            import ray  # of the worker

            labels = ray.get_runtime_context().get_node_labels()
            (tmp_path / job.id).write_text(json.dumps(labels))
            yield Ended()

    jobs = Jobs()
    with cluster_of(2) as cluster:
        cluster.add_node(num_cpus=1, labels={"zone": "b"})
        chosen = Resources(label_selector={"zone": "in(b, c)"})
        given = ExecutorSettings(address=cluster.address, resources=chosen)
        executor = RayExecutor(given, tmp_path / "log")
        executor.open()
        try:
            assert executor.slots == 1  # the head has room for two more, but is not selected
            executor.run(jobs, Seen)
        finally:
            executor.close()
        elsewhere = given.model_copy(update={"resources": Resources(label_selector={"zone": "d"})})
        with pytest.raises(ServiceError, match="wants them, zone=d: .*zone=b"):
            RayExecutor(elsewhere, tmp_path / "log").open()
    assert jobs.failures == [None] * 3
    zones = [json.loads((tmp_path / job.id).read_text())["zone"] for job in jobs.all]
    assert zones == ["b"] * 3

"""A Ray cluster of several nodes is asked for what a search needs before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from nas_theseus.errors import ServiceError
from nas_theseus.services.ray.executor import RayExecutor
from nas_theseus.services.ray.nodes import check_nodes
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

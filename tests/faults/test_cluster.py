"""A Ray cluster of several nodes is asked for what a search needs before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from nas_theseus.errors import ServiceError
from nas_theseus.services import cluster as service
from nas_theseus.services.nodes import check_nodes
from nas_theseus.settings import SearchSettings

pytestmark = pytest.mark.slow


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """A head that runs no trials; nodes are added by the test."""
    made = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        yield made
    finally:
        made.shutdown()


def test_a_cluster_is_asked_for_its_storage_and_for_room_for_a_trial(
    cluster: Cluster, tmp_path: Path
) -> None:
    cluster.add_node(num_cpus=1)
    cluster.add_node(num_cpus=2)
    settings = SearchSettings(name="one", address=cluster.address, cpus_per_trial=2)
    service.connect(settings, tmp_path / "log")
    try:
        check_nodes(tmp_path / "storage")
        assert list((tmp_path / "storage").iterdir()) == []
    finally:
        service.disconnect()
    too_large = settings.model_copy(update={"cpus_per_trial": 3.0})
    with pytest.raises(ServiceError, match=r"asks for 3 CPU.* 1 CPU, 0 GPU; .*--cpus-per-trial"):
        service.connect(too_large, tmp_path / "log")

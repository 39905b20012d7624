"""A Ray cluster of several nodes is asked for what a search needs before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from nas_theseus.errors import ServiceError
from nas_theseus.services.ray import cluster as service
from nas_theseus.services.ray.nodes import check_nodes
from nas_theseus.values.settings import SearchSettings

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


def test_what_can_be_imported_travels_and_nothing_else(tmp_path: Path) -> None:
    sources = tmp_path / "a folder"
    (sources / "package").mkdir(parents=True)
    (sources / "theseus").mkdir()
    (sources / "package" / "__init__.py").write_text("WIDTH = 8")
    (sources / "mine.py").write_text("from package import WIDTH")
    for name in ("theseus/result.json", "images.bin", "package/table.json"):
        (sources / name).write_text("1")

    @ray.remote(num_cpus=0)
    def seen() -> tuple[int, list[str]]:
        import mine  # type: ignore[import-not-found]

        here = Path.cwd()
        return mine.WIDTH, sorted(str(p.relative_to(here)) for p in here.rglob("*") if p.is_file())

    # One node: of several that share a folder, one deletes what it did not unpack itself.
    with cluster_of(1) as cluster:
        settings = SearchSettings(name="one", address=cluster.address)
        service.connect(settings, tmp_path / "log", sources)
        try:
            width, files = ray.get(seen.remote())
        finally:
            service.disconnect()
    assert width == 8
    assert [f for f in files if "__pycache__" not in f] == [
        "mine.py", "package/__init__.py", "package/table.json",
    ]  # fmt: skip


def test_a_cluster_is_asked_for_its_storage_and_for_room_for_a_trial(tmp_path: Path) -> None:
    with cluster_of(0, 1, 2) as cluster:
        settings = SearchSettings(name="one", address=cluster.address, cpus_per_trial=2)
        service.connect(settings, tmp_path / "log")
        try:
            check_nodes(tmp_path / "storage")
            assert list((tmp_path / "storage").iterdir()) == []
        finally:
            service.disconnect()
        too_large = settings.model_copy(update={"cpus_per_trial": 3.0})
        with pytest.raises(ServiceError, match=r"asks for 3 CPU.*--cpus-per-trial") as told:
            service.connect(too_large, tmp_path / "log")
    assert all(f" {cpus} CPU, 0 GPU" in str(told.value) for cpus in (0, 1, 2))

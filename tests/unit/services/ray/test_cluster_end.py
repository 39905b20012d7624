"""How Ray is ended: nothing of it is freed by another thread meanwhile."""

from __future__ import annotations

import gc
import weakref

import pytest

from nas_theseus.services.ray import cluster


class Handle:
    """Stands for one of Ray's, kept alive by a cycle until it is collected."""

    def __init__(self) -> None:
        self.itself = self


def test_what_waits_to_be_collected_is_freed_before_and_nothing_while_ray_ends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    alive = []
    waiting = weakref.ref(Handle())

    def shutdown() -> None:
        alive.append(waiting() is not None)
        alive.append(gc.isenabled())
        raise RuntimeError("as it may")

    monkeypatch.setattr(cluster.ray, "shutdown", shutdown)
    with pytest.raises(RuntimeError, match="as it may"):
        cluster.disconnect()
    assert alive == [False, False] and gc.isenabled()

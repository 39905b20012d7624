"""kill -9 of a writer of the library at every point of a put: whole entries or none."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from nas_theseus.library.record import Facts
from nas_theseus.library.store import BLOCKS, DAMAGED, Library
from tests.faults.counts import Fault

WRITER = """
import os, signal, sys
from pathlib import Path
import torch
from nas_theseus import Recipe
from nas_theseus.storage import blobs
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.store import Library
from nas_theseus.library.record import Facts
from nas_theseus.values.architecture import Boundary, Span


def key(index=0):
    end = Boundary((4,))
    return BlockKey("g", "d", Span(0, 1), f"b{index}", (), end, end, "c", Recipe())


def die():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    folder, point = sys.argv[1:]
    write, write_bytes = blobs.write_bytes, Path.write_bytes

    def dying_write(path, content):
        if point == "between the files" and path.suffix == ".json":
            die()
        if path.suffix == {"in the weights": ".safetensors", "in the record": ".json"}.get(point):
            def half(aside, content):
                write_bytes(aside, content[: len(content) // 2])
                die()
            Path.write_bytes = half
        write(path, content)

    blobs.write_bytes = dying_write
    library = Library(folder)
    for index in range(100_000 if point == "anywhere" else 1):
        library.put(key(index), {"w": torch.full((20_000,), float(index))},
                    Facts(0.5, float(index), 1, 1, 1.0, "cpu"))
"""


def start(folder: Path, point: str) -> subprocess.Popen[bytes]:
    script = folder / "writer.py"
    script.write_text(WRITER)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, str(script), str(folder / "library"), point]
    return subprocess.Popen(command, env=environment)


@pytest.mark.parametrize("point", ["in the weights", "between the files", "in the record"])
def test_a_put_that_was_killed_leaves_no_entry_and_is_made_again(
    point: str, tmp_path: Path, fault: Fault
) -> None:
    assert start(tmp_path, point).wait(120) == -signal.SIGKILL
    fault.kills = 1
    library = Library(tmp_path / "library", create=False)
    assert len(list((tmp_path / "library" / BLOCKS).iterdir())) in (1, 2)
    found = library.verify()
    assert (found.sound, found.set_aside) == (0, ())
    assert found.leftovers >= 1
    assert list(library.entries()) == []

    namespace: dict[str, object] = {"__name__": "writer"}
    exec(WRITER, namespace)
    key = namespace["key"]()  # type: ignore[operator]
    assert key not in library and library.get(key) is None
    library.put(key, {"w": torch.zeros(20_000)}, Facts(0.5, 0.0, 1, 1, 1.0, "cpu"))
    found = library.verify()
    assert (found.sound, found.set_aside) == (1, ())


def test_a_writer_killed_anywhere_leaves_only_whole_entries(tmp_path: Path, fault: Fault) -> None:
    folder = tmp_path / "library"
    for enough in (30, 60, 90):
        writer = start(tmp_path, "anywhere")
        while len(list((folder / BLOCKS).glob("*.json"))) < enough:
            assert writer.poll() is None
            time.sleep(0.001)
        writer.kill()
        writer.wait(60)
        fault.kills, fault.finished = fault.kills + 1, fault.finished + enough
        library = Library(folder, create=False)
        found = library.verify()
        fault.lost += max(0, enough - found.sound) + len(found.set_aside)
        assert found.sound >= enough and found.set_aside == ()
        assert found.leftovers <= enough // 30 * 2
        for record in library.entries():
            entry = library.get(record.key)
            assert entry is not None
            assert bool((entry.state["w"] == record.facts.residual).all())
    assert not (folder / DAMAGED).exists()

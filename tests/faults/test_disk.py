"""The disk under the storage fills up in the middle of a search."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.commands import PATIENCE_S, Search, settle
from tests.faults.counts import Fault

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

DISK_BYTES = 64 << 20


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a disk to fill cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(ballast: Path) -> None:
    """Write until there is no room for another page, quickly: the search goes on meanwhile."""
    with ballast.open("ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC


def test_the_disk_fills_up(
    kind: type[Search], undisturbed: Search, tmp_path: Path, disk: Path, fault: Fault
) -> None:
    (disk / "ballast").write_bytes(bytes(DISK_BYTES // 2))
    search = kind(tmp_path / "search", undisturbed.trials, storage=disk / "theseus")
    driver = search.start()
    search.wait_for(2)
    fill(disk / "ballast")
    assert driver.wait(timeout=PATIENCE_S) == 2, search.output[-3000:]
    said = " ".join(search.output.split())
    assert "No space left" in said and "the same command continues" in said
    assert "Traceback" not in said, search.output[-6000:]
    kept = search.results()
    fault.finished = len(kept)
    # Started while the disk is still full, it says so again.
    assert search.start().wait(timeout=PATIENCE_S) == 2
    assert "Traceback" not in search.output, search.output[-6000:]
    (disk / "ballast").unlink()
    search.finish()
    settle(search, fault, kept, undisturbed.values())
    assert search.front() == undisturbed.front()

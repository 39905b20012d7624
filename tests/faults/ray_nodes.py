"""A Ray cluster of several nodes on this machine, on loopback and with a token."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from tests.faults.services import START_S, free_port

STARTED = "Ray runtime started"  # says every node


class RayCluster:
    """A head that runs no trials, and nodes that can be killed as a machine dies: all at once.

    Attributes:
        address: of the head, for `--address`.
        dashboard: of the jobs' server, for `ray job submit`.
        environment: what a driver needs to be let in.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        port, jobs = free_port(), free_port()
        self.address, self.dashboard = f"127.0.0.2:{port}", f"http://127.0.0.1:{jobs}"
        self.environment = {
            "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(16),
            "RAY_raylet_start_wait_time_s": str(round(START_S)),
        }  # fmt: skip
        self._ports = ("--head", "--port", str(port), "--include-dashboard", "true",
                       "--dashboard-host", "127.0.0.1", "--dashboard-port", str(jobs))  # fmt: skip
        self._nodes: list[subprocess.Popen[bytes]] = []
        # An address on loopback for each: a driver, which has none of them, belongs to the head.
        # Ray puts the machine's outward address in place of 127.0.0.1; the others stay.
        self._ips = (f"127.0.0.{number}" for number in range(2, 255))

    def start(self) -> None:
        head = self._ray(*self._ports, "--num-cpus", "0")
        end = time.monotonic() + START_S
        while not self._answers():
            assert head.poll() is None and time.monotonic() < end, self._said()[-3000:]
            time.sleep(0.5)

    def add(self, cpus: int = 1) -> subprocess.Popen[bytes]:
        """A node that has joined."""
        before = self._said().count(STARTED)
        node = self._ray("--address", self.address, "--num-cpus", str(cpus))
        end = time.monotonic() + START_S
        while self._said().count(STARTED) == before:
            assert node.poll() is None and time.monotonic() < end, self._said()[-3000:]
            time.sleep(0.2)
        return node

    def kill(self, node: subprocess.Popen[bytes]) -> None:
        """kill -9 of everything that a node runs, its trials included."""
        for pid in [node.pid, *below(node.pid)]:
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                continue  # ended with what was killed before it
        node.wait()
        self._nodes.remove(node)

    def stop(self) -> None:
        for node in reversed(self._nodes.copy()):
            self.kill(node)

    def _ray(self, *options: str) -> subprocess.Popen[bytes]:
        ip = next(self._ips)
        # A folder for each, as on machines of their own: an agent deletes unpacked jobs that its
        # own node no longer needs. Not pytest's folder, since paths of sockets are short.
        folder = self._folder / ip.rpartition(".")[2]
        with (self._folder / "nodes.log").open("ab") as log:
            node = subprocess.Popen(
                [str(Path(sys.executable).parent / "ray"), "start", "--block",
                 "--node-ip-address", ip, "--temp-dir", str(folder), "--disable-usage-stats",
                 "--object-store-memory", str(100 << 20), *options],
                # A folder that is nobody's: what a search needs must travel to its workers.
                cwd="/", stdout=log, stderr=log,
                env={**os.environ, **self.environment, "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
        self._nodes.append(node)
        return node

    def _answers(self) -> bool:
        asked = urllib.request.Request(f"{self.dashboard}/api/version")
        asked.add_header("Authorization", f"Bearer {self.environment['RAY_AUTH_TOKEN']}")
        try:
            with urllib.request.urlopen(asked, timeout=2):
                return True
        except OSError:
            return False

    def _said(self) -> str:
        return (self._folder / "nodes.log").read_text()


def below(pid: int) -> list[int]:
    """Processes that a process started, and those that they did."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue  # it ended meanwhile
        for child in children:
            found += [child, *below(child)]
    return found

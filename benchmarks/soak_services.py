"""Servers of one cell of the soak, each behind a proxy that can reset or slow its connections."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import urllib.request
from contextlib import suppress
from pathlib import Path

from tests.faults.ray_nodes import below
from tests.faults.services import MlflowServer, Postgres, S3Store, Server, free_port

BUCKET = "soak"
_TICK_S = 0.02


class Store(S3Store):
    """moto's server, which keeps every request in a file: after kill -9 it has what it had."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self._recording, self._log = folder / "requests", folder / "log"
        self._made = False

    def command(self) -> subprocess.Popen[bytes]:
        recorded = {"MOTO_ENABLE_RECORDING": "1", "MOTO_RECORDER_FILEPATH": str(self._recording)}
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
                env={**os.environ, **self.environment, **recorded}, stdout=log, stderr=log,
            )  # fmt: skip

    def start(self) -> None:
        super().start()
        address = f"http://127.0.0.1:{self.port}"
        if self._made:
            # A request that was cut off while it was written was never answered.
            whole = self._recording.read_bytes()
            self._recording.write_bytes(whole[: whole.rfind(b"\n") + 1])
            _ask(f"{address}/moto-api/recorder/replay-recording", "POST")
        else:
            _ask(f"{address}/{BUCKET}", "PUT")
            self._made = True


def _ask(address: str, method: str) -> None:
    urllib.request.urlopen(urllib.request.Request(address, method=method), timeout=120).close()


class MlflowWithStore(MlflowServer):
    """MLflow's server with its runs in PostgreSQL and its artifacts in the S3-compatible store."""

    def __init__(self, folder: Path, backend: str, store: Store) -> None:
        super().__init__(folder, backend)
        self._store = store

    def command(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        environment |= {
            **self._store.environment, "MLFLOW_BACKEND_STORE_URI": self._backend,
            "MLFLOW_S3_ENDPOINT_URL": self._store.environment["AWS_ENDPOINT_URL"],
        }  # fmt: skip
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                 str(self.port), "--workers", "1", "--artifacts-destination",
                 f"s3://{BUCKET}/artifacts"],
                env=environment, cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip


class Proxy:
    """A process that passes bytes on between a port of its own and a server's.

    Args:
        folder: where its mode is written: ``pass``, ``reset``, or the seconds by which each piece
            is delayed.
    """

    def __init__(self, folder: Path, target: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._mode = folder / f"{target}.mode"
        self.port = free_port()
        self.set("pass")
        sys.stdout.flush()
        self._pid = os.fork()
        if self._pid == 0:
            try:
                asyncio.run(_serve(self.port, target, self._mode))
            finally:
                os._exit(0)

    def set(self, mode: str) -> None:
        """Change what it does with its connections, old and new."""
        aside = self._mode.with_suffix(".aside")
        aside.write_text(mode)
        aside.replace(self._mode)

    def stop(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)


async def _serve(port: int, target: int, mode: Path) -> None:
    open_now: set[asyncio.StreamWriter] = set()

    async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while piece := await source.read(1 << 16):
                if (now := mode.read_text()) not in ("pass", "reset"):
                    await asyncio.sleep(float(now))
                sink.write(piece)
                await sink.drain()
        with suppress(OSError, RuntimeError):
            sink.write_eof()

    async def connected(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        open_now.add(sink)
        try:
            there, back = await asyncio.open_connection("127.0.0.1", target)
        except OSError:
            _reset(sink)
            return
        open_now.add(back)
        await asyncio.gather(pump(source, back), pump(there, sink))
        for writer in (sink, back):
            open_now.discard(writer)
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", port)
    async with server:
        while True:
            await asyncio.sleep(_TICK_S)
            if mode.read_text() == "reset":
                for writer in open_now:
                    _reset(writer)
                open_now.clear()


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a machine does that has forgotten it."""
    with suppress(OSError):
        found: socket.socket = writer.get_extra_info("socket")
        found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


class Services:
    """The servers that a cell needs, by the names in `soak_draw.Setup.services`."""

    def __init__(self, folder: Path, names: frozenset[str]) -> None:
        self._folder, self._names = folder, names
        self.servers: dict[str, Server] = {}
        self.proxies: dict[str, Proxy] = {}

    def start(self) -> None:
        """Start them in the order in which they need each other."""
        if "store" in self._names:
            self._add("store", Store(self._folder / "store"))
        for name in ("database", "tracker's database"):
            if name in self._names:
                # Readable by another user, since PostgreSQL refuses to run as root.
                own = self._folder / name.replace("'s ", "-")
                own.mkdir(mode=0o755)
                self._add(name, Postgres(own))
        if "tracker" in self._names:
            backend, store = self.servers["tracker's database"], self.servers["store"]
            assert isinstance(backend, Postgres) and isinstance(store, Store)
            server = MlflowWithStore(self._folder / "mlflow", backend.uri(), store)
            self._add("tracker", server)

    def _add(self, name: str, server: Server) -> None:
        self.servers[name] = server
        self.proxies[name] = Proxy(self._folder / "proxies", server.port)
        server.start()

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs, with the proxies' ports."""
        found: dict[str, str] = {}
        if "store" in self.servers:
            store = self.servers["store"]
            assert isinstance(store, Store)
            found |= store.environment
            found["AWS_ENDPOINT_URL"] = f"http://127.0.0.1:{self.proxies['store'].port}"
        if "database" in self.servers:
            found["NAS_THESEUS_STUDY"] = self.study(self.proxies["database"].port)
        if "tracker" in self.servers:
            found["MLFLOW_TRACKING_URI"] = f"http://127.0.0.1:{self.proxies['tracker'].port}"
        return found

    def study(self, port: int) -> str:
        """Address of the study's database at a port: the server's own or its proxy's."""
        server = self.servers["database"]
        assert isinstance(server, Postgres)
        return server.uri().replace(f":{server.port}/", f":{port}/")

    def processes(self, name: str) -> list[int]:
        """Ids of a server's processes."""
        server = self.servers[name]
        return [] if server.process is None else [server.process.pid, *below(server.process.pid)]

    def kill(self, name: str) -> int:
        """End all processes of a server with kill -9; returns how many servers it were."""
        server = self.servers[name]
        for pid in self.processes(name):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if server.process is not None:
            server.process.wait(60)
            server.process = None
            return 1
        return 0

    def restart(self, name: str) -> None:
        """Start a server that was killed."""
        if self.servers[name].process is None:
            self.servers[name].start()

    def stop(self) -> None:
        for name in reversed([*self.servers]):
            self.kill(name)
        for proxy in self.proxies.values():
            proxy.stop()

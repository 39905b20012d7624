"""An MLflow server of another major version is refused before anything is trained."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import mlflow
import pytest

from nas_theseus.errors import ServiceError
from nas_theseus.services.mlflow import MlflowTracker
from nas_theseus.services.mlflow.connection import check_version


@contextmanager
def serving(version: str | None) -> Iterator[str]:
    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            known = {"/health": "OK", "/version": version}.get(self.path)
            self.send_response(404 if known is None else 200)
            self.end_headers()
            self.wfile.write((known or "").encode())

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://anna:s3cret@127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_another_major_version_is_refused_at_once(tmp_path: Path) -> None:
    with serving("1.30.0") as uri:
        tracker = MlflowTracker(
            "one", tmp_path / "outbox", tmp_path / "runs.json", tracking_uri=uri
        )
        with pytest.raises(ServiceError, match=r"has version 1\.30\.0.*mlflow==1\.\*") as told:
            tracker.begin({})
    assert "s3cret" not in str(told.value)


@pytest.mark.parametrize("version", [mlflow.__version__, None, "not a version"])
def test_the_same_and_an_unknown_version_are_taken(version: str | None) -> None:
    with serving(version) as uri:
        check_version(uri)

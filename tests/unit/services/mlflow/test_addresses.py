"""What is said of an MLflow that does not answer: its address as it is, and a remedy that fits."""

from __future__ import annotations

import pytest

from nas_theseus.services.mlflow.connection import no_answer
from nas_theseus.storage.redaction import without_credentials


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:////data/mlflow.db", "sqlite:////data/mlflow.db"),
        ("sqlite:///mlflow.db", "sqlite:///mlflow.db"),
        ("sqlite:////data/mlflow.db?key=secret", "sqlite:////data/mlflow.db"),
        ("file:///data/mlruns", "file:///data/mlruns"),
        ("http://me:secret@host:5000/path?token=secret", "http://host:5000/path"),
    ],
)
def test_addresses_of_files_keep_their_slashes(uri: str, shown: str) -> None:
    assert without_credentials(uri) == shown
    assert f"MLflow at {shown} cannot be used" in str(no_answer(uri, OSError("no")))


def test_a_local_file_that_takes_too_long_is_not_called_a_server() -> None:
    said = str(no_answer("sqlite:////data/mlflow.db", TimeoutError("nothing within 120 s")))
    assert "run the same command again" in said and "--tracker json-lines" in said
    assert "Start the server" not in said
    assert "Start the server" in str(no_answer("http://host:5000", TimeoutError("nothing")))
    assert "Start the server" in str(no_answer("sqlite:///a.db", OSError("no such folder")))

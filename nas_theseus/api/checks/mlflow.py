"""MLflow: whether its store can be used, and is of a version that fits."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nas_theseus.api.doctor import Asked, Finding

# MLflow would try again for minutes.
_IMPATIENT = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}


def check(_: Asked) -> Iterator[Finding]:
    """The store that a search would record to."""
    import mlflow
    from sqlalchemy.engine import make_url

    from nas_theseus.services.mlflow.connection import (
        check_version,
        connect,
        no_answer,
        probe,
        quieten,
    )
    from nas_theseus.storage.redaction import without_credentials

    quieten()
    uri = mlflow.get_tracking_uri()
    shown = without_credentials(uri)
    if uri.startswith("sqlite"):
        file = Path(make_url(uri).database or "mlflow.db").absolute()
        if not file.exists():
            yield _of_folder(file)
            return
    try:
        with _impatient():
            probe(uri)
            check_version(uri)
            connect(uri)
    except Exception as error:  # MLflow, SQLAlchemy and database drivers raise their own kinds
        raise no_answer(uri, error) from None
    yield Finding("MLflow", "ok", f"{mlflow.__version__}; {shown} answers")


@contextmanager
def _impatient() -> Iterator[None]:
    """Context without MLflow's retries, unless they are set; a later search has them again."""
    added = {name: value for name, value in _IMPATIENT.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _of_folder(file: Path) -> Finding:
    """What a store that does not exist yet needs."""
    if os.access(file.parent, os.W_OK):
        return Finding("MLflow", "ok", f"{file} is made by the first search")
    return Finding(
        "MLflow",
        "broken",
        f"{file} cannot be made: {file.parent} is missing or not writable",
        "start in another folder, or set MLFLOW_TRACKING_URI",
    )


MEMBER = check

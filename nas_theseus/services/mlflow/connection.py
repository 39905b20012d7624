"""Reach MLflow's server: a quick probe, messages without secrets, quiet first use."""

from __future__ import annotations

import logging
import os
import socket
import ssl
import urllib.error
import urllib.request
from urllib.parse import quote, urlencode, urlsplit

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nas_theseus.errors import ServiceError
from nas_theseus.services.mlflow.artifact_root import check_artifact_root
from nas_theseus.services.sqlite_tables import make_tables, sqlite_file
from nas_theseus.storage.redaction import scrub, without_credentials

EXPERIMENT = "nas-theseus"

PROBE_TIMEOUT_S = 5.0
_DATABASE_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}


def experiment_name(default: str = EXPERIMENT) -> str:
    """The experiment that MLFLOW_EXPERIMENT_NAME names, or the default."""
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or default


def connect(uri: str) -> MlflowClient:
    """A client whose store has its tables; see `make_tables`. As MLflow does, it makes the folder.

    Raises:
        MlflowException, OSError, sqlalchemy.exc.SQLAlchemyError: MLflow cannot use the store.
    """
    if file := sqlite_file(uri):
        file.parent.mkdir(parents=True, exist_ok=True)
    make_tables(uri, _first_use)
    return _first_use(uri)


def _first_use(uri: str) -> MlflowClient:
    client = MlflowClient(uri)
    client.search_experiments(max_results=1)
    return client


def find_experiment(client: MlflowClient, name: str) -> str:
    """Id of an experiment, made if it is missing; its artifacts can be written.

    Raises:
        ServiceError: it is deleted there, or its artifact root cannot be written.
        MlflowException: MLflow refuses.
    """
    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        try:
            experiment = client.get_experiment(client.create_experiment(name))
        except MlflowException:  # another search may have made it just now
            experiment = client.get_experiment_by_name(name)
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        raise ServiceError(
            f"MLflow experiment {name!r} is deleted; restore it (mlflow experiments restore "
            f"-x {experiment.experiment_id}) or set MLFLOW_EXPERIMENT_NAME to another"
        )
    check_artifact_root(client, experiment)
    return str(experiment.experiment_id)


def no_answer(uri: str, error: Exception) -> ServiceError:
    """What is told of a server that cannot be used; no secrets, and the cause is not chained."""
    what = f"MLflow at {without_credentials(uri)} cannot be used: {scrub(str(error), uri)}."
    if isinstance(error, TimeoutError) and uri.startswith("sqlite"):
        return ServiceError(
            f"{what} Making the tables of a new file takes minutes on a busy machine: run the same "
            "command again, or record without MLflow (--tracker json-lines)."
        )
    return ServiceError(
        f"{what} Start the server, set MLFLOW_TRACKING_URI to one that runs, or unset it to record "
        "into a local file (sqlite:///mlflow.db)."
    )


def front_link(server: str, experiment: str = EXPERIMENT) -> str:
    """Address of MLflow's run list with the members of all fronts, sorted by MACs.

    Sorted by a metric the UI shows runs flat; by default it hides them under their parent.

    Args:
        server: address of the UI.
        experiment: used unless MLFLOW_EXPERIMENT_NAME is set.
    """
    found = mlflow.get_experiment_by_name(experiment_name(experiment))
    if found is None:
        return server
    query = urlencode(
        {
            "workflowType": "machine_learning",
            "searchFilter": "tags.\"theseus.front\" = 'true'",
            "orderByKey": "metrics.`macs`",
            "orderByAsc": "true",
        },
        quote_via=quote,
    )
    return f"{server.rstrip('/')}/#/experiments/{found.experiment_id}/runs?{query}"


def probe(uri: str) -> None:
    """Ask quickly whether a server is there at all; MLflow's own retries take minutes.

    Raises:
        OSError: nothing answers at the URI's host and port, or only a gateway does.
    """
    parts = urlsplit(uri)
    if parts.scheme in ("http", "https"):
        url = without_credentials(uri).rstrip("/") + "/health"
        try:
            with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S):
                return
        except urllib.error.HTTPError as error:
            # 401 or 404 is an answer, which MLflow judges next; 502 to 504 a gateway's excuse.
            if error.code >= 500:
                raise
        except urllib.error.URLError as error:
            # MLflow has its own settings for certificates.
            if not isinstance(error.reason, ssl.SSLError):
                raise
    port = parts.port or _DATABASE_PORTS.get(parts.scheme.split("+")[0])
    if parts.scheme.split("+")[0] in _DATABASE_PORTS and parts.hostname and port:
        socket.create_connection((parts.hostname, port), PROBE_TIMEOUT_S).close()


def check_version(uri: str) -> None:
    """Refuse a server of another major version: its interface and tables are others.

    A server that does not tell its version is taken as it is.

    Raises:
        ServiceError: the versions do not fit.
    """
    if urlsplit(uri).scheme not in ("http", "https"):
        return
    url = without_credentials(uri).rstrip("/") + "/version"
    try:
        with urllib.request.urlopen(url, timeout=PROBE_TIMEOUT_S) as answer:
            version = answer.read(100).decode(errors="replace").strip()
    except OSError:
        return
    major = version.partition(".")[0]
    if major.isdecimal() and major != mlflow.__version__.partition(".")[0]:
        raise ServiceError(
            f"MLflow at {without_credentials(uri)} has version {version}, here is "
            f"{mlflow.__version__}: their major versions must be the same. Install "
            f"'mlflow=={major}.*' where the search starts, or upgrade the server"
        )


def quieten() -> None:
    """Keep MLflow's and alembic's chatter (migrations, tracebacks we report) off the console."""
    if "MLFLOW_LOGGING_LEVEL" in os.environ:
        return
    for name, level in (
        ("mlflow", logging.WARNING),
        ("alembic", logging.WARNING),
        ("mlflow.store.db.utils", logging.CRITICAL),
    ):
        logging.getLogger(name).setLevel(level)

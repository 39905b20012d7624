"""One conversion, or one comparison by stitching, as one run of MLflow."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import mlflow
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from nas_theseus.errors import ServiceError
from nas_theseus.services.mlflow.artifact_root import log_artifact
from nas_theseus.services.mlflow.connection import (
    connect,
    experiment_name,
    find_experiment,
    no_answer,
    probe,
    quieten,
)
from nas_theseus.services.mlflow.runs import (
    TAG_CHARACTERS,
    artifact_folder,
    as_texts,
    evaluation_metrics,
    shorten,
    write_run,
)
from nas_theseus.storage.redaction import scrub, without_credentials
from nas_theseus.values.outcomes import CurvePoint, Evaluation


class OpenRun:
    """The run of what is under way; made by `recording`."""

    def __init__(self, client: MlflowClient, uri: str, run_id: str) -> None:
        self.run_id = run_id
        self._client, self._uri = client, uri

    def keep(
        self,
        evaluation: Evaluation | None,
        points: Sequence[CurvePoint],
        folder: Path,
        files: Mapping[str, str | None],
    ) -> None:
        """Write the results.

        Args:
            evaluation: of a conversion: its curve and final values.
            points: metrics by step beside those of the evaluation.
            folder: where the files are.
            files: paths from the folder on, and the artifact folder of each; None for the top.

        Raises:
            ServiceError: MLflow does not take them.
        """
        now_ms = time.time_ns() // 1_000_000
        more = [Metric(p.metric, float(p.value), now_ms, p.step) for p in points]
        try:
            own = [] if evaluation is None else evaluation_metrics(evaluation, now_ms)
            write_run(self._client, self.run_id, [*own, *more])
            for name, place in files.items():
                target = artifact_folder(place, name)
                log_artifact(self._client, self.run_id, folder / name, target)
        except (MlflowException, OSError) as error:
            # The cause may hold the password, so it is not chained.
            raise ServiceError(
                f"MLflow at {without_credentials(self._uri)} did not take the results of run "
                f"{self.run_id}: {scrub(str(error), self._uri)}. They are all in {folder}"
            ) from None


@contextmanager
def recording(
    name: str, kind: str, parameters: Mapping[str, object], tags: Mapping[str, str] | None = None
) -> Iterator[OpenRun]:
    """Open a run before work starts, and end it as the work ends.

    Args:
        kind: tag ``theseus.kind``, such as ``conversion``.
        tags: others.

    Raises:
        ServiceError: MLflow does not answer or refuses; what the work raises passes through.
    """
    uri = mlflow.get_tracking_uri()
    quieten()
    try:
        probe(uri)
        client = connect(uri)
        told = {"theseus.kind": kind, **(tags or {})}
        experiment = find_experiment(client, experiment_name())
        run_id = client.create_run(experiment, tags=told, run_name=name).info.run_id
        write_run(client, run_id, params=as_texts(parameters))
    except ServiceError:
        raise
    except Exception as error:  # whatever a store's driver raises, its own absence included
        raise no_answer(uri, error) from None
    try:
        yield OpenRun(client, uri, run_id)
    except BaseException as error:
        # What stopped it is told, whether or not MLflow still answers.
        with suppress(MlflowException, OSError):
            reason = scrub(str(error), uri) or type(error).__name__
            write_run(client, run_id, tags={"theseus.failure": shorten(reason, TAG_CHARACTERS)})
            client.set_terminated(run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    with suppress(MlflowException, OSError):  # its results are there
        client.set_terminated(run_id, "FINISHED")

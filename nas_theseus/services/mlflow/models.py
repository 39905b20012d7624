"""Found networks as models of MLflow, logged beside their runs."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import mlflow
import numpy as np
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.tracking import MlflowClient
from mlflow.types import Schema, TensorSpec

from nas_theseus.errors import ServiceError
from nas_theseus.export.packaged import Package
from nas_theseus.services.mlflow.connection import (
    connect,
    experiment_name,
    find_experiment,
    no_answer,
    probe,
    quieten,
)
from nas_theseus.services.mlflow.runs import (
    architecture_params,
    evaluation_metrics,
    run_name,
    shorten,
    write_run,
)
from nas_theseus.storage.redaction import scrub, without_credentials
from nas_theseus.values.outcomes import Evaluation

_CODE = Path(__file__).with_name("theseus_network.py")
# MLflow's tables take 5000; a line is read.
_DESCRIPTION_CHARACTERS = 500


@dataclass(frozen=True)
class Finding:
    """An architecture that a search evaluated.

    Attributes:
        identity: of the search, as the tag ``theseus.identity``.
        test: its test metrics; empty if it was not tested.
    """

    search: str
    identity: str
    evaluation: Evaluation
    test: Mapping[str, float] = field(default_factory=dict)

    @property
    def tags(self) -> dict[str, str]:
        """Tags of its run, its model and its versions."""
        return {
            "theseus.search": self.search,
            "theseus.identity": self.identity,
            "theseus.architecture": self.evaluation.architecture.id,
            "theseus.evaluation": self.evaluation.name,
        }


class Models:
    """The models at MLflow's current tracking URI; made by `open_models`."""

    def __init__(self, client: MlflowClient, uri: str) -> None:
        self.client = client
        self._uri = uri

    def find(self, finding: Finding) -> LoggedModel | None:
        """The model of a network that was logged before; None if there is none.

        Raises:
            ServiceError: MLflow does not answer.
        """
        with self.told("a search for models"):
            found = self.client.search_logged_models(
                self._experiments(),
                f"tags.`theseus.identity` = '{finding.identity}' and "
                f"tags.`theseus.evaluation` = '{finding.evaluation.name}'",
            )
        return next((one for one in found if one.status == LoggedModelStatus.READY), None)

    def log(self, finding: Finding, package: Package) -> LoggedModel:
        """Log a network as a model linked to its run.

        Raises:
            ServiceError: MLflow does not answer or refuses.
        """
        with self.told(f"architecture {finding.evaluation.architecture.id} as a model"):
            return self._log(finding, package, self._run_of(finding))

    @contextmanager
    def told(self, what: str) -> Iterator[None]:
        """Errors as ours, without secrets."""
        try:
            yield
        except (MlflowException, OSError) as error:
            # The cause may hold the password, so it is not chained.
            raise ServiceError(
                f"MLflow at {without_credentials(self._uri)} does not take {what}: "
                f"{scrub(str(error), self._uri)}"
            ) from None

    def _experiments(self) -> list[str]:
        return [one.experiment_id for one in self.client.search_experiments()]

    def _run_of(self, finding: Finding) -> Run:
        """The architecture's run; made if the search was recorded elsewhere or not at all."""
        found = self.client.search_runs(
            self._experiments(),
            f"tags.`theseus.identity` = '{finding.identity}' and "
            f"tags.`theseus.architecture` = '{finding.evaluation.architecture.id}'",
        )
        if found:
            return found[0]
        evaluation, now_ms = finding.evaluation, time.time_ns() // 1_000_000
        experiment = find_experiment(self.client, experiment_name())
        tags = {**finding.tags, "theseus.kind": "architecture"}
        name = run_name(evaluation.architecture)
        start_ms = now_ms - int(evaluation.seconds * 1000)
        run_id = self.client.create_run(experiment, start_ms, tags, name).info.run_id
        points = evaluation_metrics(evaluation, now_ms)
        points += [Metric(key, float(value), now_ms, 0) for key, value in finding.test.items()]
        write_run(self.client, run_id, points, architecture_params(evaluation))
        self.client.set_terminated(run_id, "FINISHED", now_ms)
        return self.client.get_run(run_id)

    def _log(self, finding: Finding, package: Package, run: Run) -> LoggedModel:
        """Write the model's files, and log it with its run's parameters and its own metrics."""
        run_id = run.info.run_id
        model = self.client.create_logged_model(
            run.info.experiment_id,
            finding.evaluation.architecture.id,
            run_id,
            {
                **finding.tags,
                "theseus.kind": package.kind,
                "theseus.reason": shorten(package.reason, _DESCRIPTION_CHARACTERS),
            },
            dict(run.data.params),
        )
        status = LoggedModelStatus.FAILED
        try:
            self.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
            with tempfile.TemporaryDirectory(prefix="theseus-") as aside:
                saved = Path(aside) / "model"
                known = Model(
                    model.artifact_location,
                    run_id,
                    model_uuid=model.model_id,
                    model_id=model.model_id,
                )
                save_model(package, saved, known)
                self.client.log_model_artifacts(model.model_id, str(saved))
            write_run(self.client, run_id, _finals(finding, model.model_id))
            status = LoggedModelStatus.READY
        finally:
            self.client.finalize_logged_model(model.model_id, status)
        return model


def open_models() -> Models:
    """The models at MLflow's current tracking URI.

    Raises:
        ServiceError: MLflow does not answer.
    """
    uri = mlflow.get_tracking_uri()
    quieten()
    try:
        probe(uri)
        return Models(connect(uri), uri)
    except Exception as error:  # whatever a store's driver raises, its own absence included
        raise no_answer(uri, error) from None


def save_model(package: Package, path: Path, model: Model | None = None) -> None:
    """Write a network as the folder of an MLflow model of the flavour ``python_function``.

    Args:
        path: the folder, which does not exist.
        model: what MLflow knows of it beside that.
    """
    example = package.example.numpy()
    number = np.dtype(np.float32)
    signature = ModelSignature(
        Schema([TensorSpec(example.dtype, (-1, *example.shape[1:]))]),
        Schema([TensorSpec(number, (-1, *package.outlet))]),
    )
    mlflow.pyfunc.save_model(
        str(path),
        mlflow_model=model,
        loader_module=_CODE.stem,
        code_paths=[str(_CODE)],
        data_path=str(package.path),
        signature=signature,
        input_example=example,
        pip_requirements=[f"mlflow=={mlflow.__version__}", *package.needs.values()],
        model_config={"kind": package.kind, "needs": dict(package.needs)},
    )


def described(finding: Finding) -> str:
    """A network in one line: its quality, its costs and its blocks."""
    values = {**finding.evaluation.values(), **finding.test}
    figures = ", ".join(f"{name} {value:,.4g}" for name, value in values.items())
    return shorten(f"{figures}: {finding.evaluation.architecture.blocks}", _DESCRIPTION_CHARACTERS)


def _finals(finding: Finding, model_id: str) -> list[Metric]:
    """The final values of a network, as its model's metrics, at the steps of its run's own."""
    now_ms = time.time_ns() // 1_000_000
    last: dict[str, Metric] = {}
    for point in evaluation_metrics(finding.evaluation, now_ms):
        before = last.get(point.key)
        if before is None or (point.step, point.timestamp) >= (before.step, before.timestamp):
            last[point.key] = point
    values = {key: (point.value, point.step) for key, point in last.items()}
    values |= {key: (float(value), 0) for key, value in finding.test.items()}
    return [
        Metric(key, value, now_ms + 1, step, model_id=model_id)
        for key, (value, step) in values.items()
    ]

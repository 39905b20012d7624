"""Registered models of MLflow: versions of found networks, and their aliases."""

from __future__ import annotations

import json

from mlflow.entities import LoggedModel
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.utils.mlflow_tags import MLFLOW_MODEL_VERSIONS

from nas_theseus.services.mlflow.models import Finding, Models, described


class Registry:
    """One registered model, whether it exists already or not.

    Args:
        models: where its versions are logged.
    """

    def __init__(self, models: Models, name: str) -> None:
        self.name = name
        self._models, self._client = models, models.client

    def holder(self, alias: str) -> ModelVersion | None:
        """The version that has an alias; None if none has it."""
        with self._models.told(f"model {self.name!r}"):
            try:
                aliases = self._client.get_registered_model(self.name).aliases
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
                return None
            if alias not in aliases:
                return None
            return self._client.get_model_version(self.name, aliases[alias])

    def version_of(self, finding: Finding) -> ModelVersion | None:
        """The newest version that holds this network; None if none does."""
        own = finding.tags.items()
        with self._models.told(f"model {self.name!r}"):
            found = self._client.search_model_versions(f"name = '{self.name}'")
        same = [one for one in found if own <= one.tags.items() and one.status == "READY"]
        return max(same, key=lambda one: int(one.version), default=None)

    def add(self, finding: Finding, model: LoggedModel) -> ModelVersion:
        """Make a network's model a version.

        Raises:
            ServiceError: MLflow does not answer or refuses.
        """
        with self._models.told(f"a version of model {self.name!r}"):
            try:
                self._client.create_registered_model(self.name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            version = self._client.create_model_version(
                self.name,
                model.model_uri,
                model.source_run_id,
                tags={**finding.tags, "theseus.model": model.model_id},
                description=described(finding),
                model_id=model.model_id,
            )
            # MLflow's pages name a model's versions by this tag, as mlflow.register_model sets it.
            versions = [{"name": version.name, "version": version.version}]
            tags = {MLFLOW_MODEL_VERSIONS: json.dumps(versions)}
            self._client.set_logged_model_tags(model.model_id, tags)
            return version

    def give(self, alias: str, version: ModelVersion) -> None:
        """Let an alias name a version, whichever had it before."""
        with self._models.told(f"alias {alias!r} of model {self.name!r}"):
            self._client.set_registered_model_alias(self.name, alias, version.version)

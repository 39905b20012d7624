"""A registered network answers over HTTP as MLflow's users serve it: with its own outputs."""

from __future__ import annotations

import json
import urllib.error
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

import nas_theseus
from nas_theseus.conversion.target import assemble
from tests.integration.serving import ask, served
from tests.unit.api.found_search import TRACED, FoundSearch


def test_answers_are_the_networks_own_outputs(
    tmp_path: Path, toy_space_text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    search = FoundSearch(tmp_path, toy_space_text)
    search.finish()
    done = nas_theseus.register(
        "found", TRACED.id, alias="champion", storage="storage", trust_code=True
    )
    batch = next(search.space.task.batches("test", 5, limit=5)).inputs
    network = assemble(search.space, TRACED, 0).eval()  # as `FoundSearch` saved it
    with torch.no_grad():
        expected = network(batch).numpy()

    # Without the search's folder, the space file and this project's source on the path.
    (tmp_path / "storage").rename(tmp_path / "elsewhere")
    (tmp_path / "user").rename(tmp_path / "away")
    monkeypatch.delenv("PYTHONPATH", raising=False)
    with served(done.uri, tmp_path / "serve.log") as address:
        answer = ask(address, {"inputs": batch.tolist()})["predictions"]
        np.testing.assert_allclose(answer, expected, rtol=1e-4, atol=1e-5)
        one = ask(address, {"instances": batch[:1].tolist()})["predictions"]
        np.testing.assert_allclose(one, expected[:1], rtol=1e-4, atol=1e-5)
        example = mlflow.models.Model.load(done.uri).get_serving_input(
            mlflow.artifacts.download_artifacts(done.uri, dst_path=str(tmp_path / "down"))
        )
        assert np.shape(ask(address, json.loads(example))["predictions"]) == (1, 10)
        with pytest.raises(urllib.error.HTTPError, match="400") as caught:
            ask(address, {"inputs": [[1.0, 2.0]]})
        assert "Shape of input" in caught.value.read().decode()

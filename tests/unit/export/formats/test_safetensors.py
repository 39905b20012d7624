"""Safetensors: the file says what rebuilds the network."""

from __future__ import annotations

import json
from pathlib import Path

import safetensors

from nas_theseus.blocks import Basic
from nas_theseus.export.format import write_format
from nas_theseus.values.architecture import Architecture
from tests.unit.export.members import HALF, MAP, between


def test_metadata_rebuilds_the_network_and_says_what_was_measured(tmp_path: Path) -> None:
    found = between(MAP, HALF, Basic(width=0.5))
    write_format(found, "safetensors", tmp_path / "net")
    with safetensors.safe_open(tmp_path / "net", "pt") as file:
        said = file.metadata()
    assert Architecture.from_json(json.loads(said["architecture"])) == found.evaluation.architecture
    assert json.loads(said["inlet"]) == {"shape": [4, 8, 8], "dtype": "float32"}
    assert json.loads(said["outlet"]) == {"shape": [6, 4, 4], "dtype": "float32"}
    assert said["task"] == "any"
    assert json.loads(said["values"]) == {"val_accuracy": 0.5, "macs": 10, "params": 5}

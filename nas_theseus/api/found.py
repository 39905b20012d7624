"""A found network by what a person calls it: its folder, its architecture or its MLflow run."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory

from nas_theseus.errors import StorageError
from nas_theseus.export.member import Member, read_member
from nas_theseus.searches.folder import SearchFolder, searches
from nas_theseus.services.mlflow import download_network


def find_network(text: str, root: Path, *, trust_code: bool) -> Member:
    """Rebuild a network from its folder, by its architecture id, or from its MLflow run.

    Args:
        text: a folder as `read_member` takes it, the architecture id of a front member in a
            search of `root`, or a run id of a front member at MLflow's current tracking URI.
        root: storage folder of searches.
        trust_code: consent to run the network's ``space.py``.

    Raises:
        StorageError: nothing is called so, or no consent.
        ServiceError: the run cannot be had from MLflow.
        GuideError: the weights are damaged or of another network.
        SpaceError: the space file cannot be run.
    """
    fronts = (SearchFolder(root, name).front for name in searches(root))
    for folder in (Path(text), *(front / text for front in fronts)):
        if folder.is_dir():
            return read_member(folder, trust_code=trust_code)
    if not re.fullmatch("[0-9a-f]{32}", text):
        raise StorageError(
            f"no network {text!r}: give the folder of a found network, the architecture id of a "
            f"front member in {root} ('nas-theseus front NAME' lists them), or its MLflow run id"
        )
    if not trust_code:
        raise StorageError(
            f"loading the network of run {text} runs the Python code in its artifact "
            "network/space.py; read it ('nas-theseus ui'), then add --trust-code"
        )
    with TemporaryDirectory(prefix="theseus-") as aside:
        return read_member(download_network(text, Path(aside)), trust_code=True)

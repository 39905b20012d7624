"""What MLflow runs to load a registered network: a copy of this file is part of the model.

It imports nothing of nas-theseus, since a model that holds a program runs without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Any


class TheseusNetwork:
    """Answers inputs with the network's own outputs.

    Attributes:
        network: a torch module, which ``mlflow.pyfunc.load_model(…).get_raw_model()`` returns.
    """

    def __init__(self, network: Any) -> None:
        self.network = network

    def predict(self, inputs: Any, params: Mapping[str, Any] | None = None) -> Any:
        """Outputs for inputs (B, *inlet), both NumPy arrays: (B, *outlet)."""
        import torch

        del params
        with torch.inference_mode():
            return self.network(torch.from_numpy(inputs)).numpy()

    def get_raw_model(self) -> Any:
        """The torch module."""
        return self.network


def _load_pyfunc(data_path: str, model_config: Mapping[str, Any]) -> TheseusNetwork:
    """What MLflow calls.

    Args:
        data_path: the program's file, or the network's folder.
        model_config: ``kind``, which says what it is, and ``needs``, by the name of a module what
            to install for it.

    Raises:
        ModuleNotFoundError: packages are missing; the message names all of them.
    """
    needs = model_config["needs"]
    missing = [what for module, what in needs.items() if find_spec(module) is None]
    if missing:
        raise ModuleNotFoundError(
            f"this network needs packages that are not installed here: {', '.join(missing)}. "
            f"Install them with 'pip install {' '.join(missing)}', or have MLflow install them: "
            "'mlflow models serve' without '--env-manager local'"
        )
    if model_config["kind"] == "program":
        import torch

        return TheseusNetwork(torch.export.load(data_path).module())
    from nas_theseus.export.member import load

    # Loading a model of MLflow runs its code, as has just been done with this file.
    return TheseusNetwork(load(data_path, trust_code=True))

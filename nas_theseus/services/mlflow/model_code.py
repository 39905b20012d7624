"""What MLflow runs to load a registered network; a copy of this file is part of the model.

It imports nothing of nas-theseus: a model that holds a program runs without it.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import mlflow
from mlflow.pyfunc import PythonModel, PythonModelContext


class FoundNetwork(PythonModel):  # type: ignore[misc] # MLflow's base has no types
    """Answers inputs (B, *inlet) with the network's own outputs.

    Attributes:
        network: the torch module, once it is loaded: ``unwrap_python_model().network``.
    """

    network: Any

    def load_context(self, context: PythonModelContext) -> None:
        """Load the network.

        Raises:
            ModuleNotFoundError: packages are missing; the message names all of them.
        """
        needs = context.model_config["needs"]
        missing = [what for module, what in needs.items() if find_spec(module) is None]
        if missing:
            raise ModuleNotFoundError(
                f"this network needs packages that are not installed here: {', '.join(missing)}. "
                f"Install them with 'pip install {' '.join(missing)}', or let MLflow do it: "
                "--env-manager virtualenv"
            )
        import torch

        if "program" in context.artifacts:
            self.network = torch.export.load(context.artifacts["program"]).module()
        else:
            from nas_theseus.export.member import load

            # MLflow has run this file already: who loads a model trusts its code.
            self.network = load(context.artifacts["network"], trust_code=True)

    def predict(self, context, model_input, params=None):  # type: ignore # noqa: ANN001, ANN201
        """Outputs for inputs (B, *inlet), as an array (B, *outlet)."""
        # Without types: MLflow would take them for the model's signature.
        import torch

        with torch.inference_mode():
            return self.network(torch.from_numpy(model_input)).numpy()


mlflow.models.set_model(FoundNetwork())

"""Root of the mean squared error, in the units of the targets."""

from __future__ import annotations

import torch

from nas_theseus.tasks.metric import Meter, NamedMetric, Targets


def make(targets: Targets) -> Meter:
    """The root of the mean over examples and numbers."""
    from torchmetrics.regression import MeanSquaredError

    del targets
    return MeanSquaredError(squared=False).set_dtype(torch.float64)


MEMBER = NamedMetric("minimize", ("numbers",), make)

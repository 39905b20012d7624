"""What tests of transforms share: networks off their initial state, and how far a student is."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def trained() -> Callable[[nn.Module], nn.Module]:
    """Statistics and parameters of norms, and biases, as training might leave them."""

    def perturb(model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
                nn.init.uniform_(module.weight, 0.5, 1.5)
            if getattr(module, "bias", None) is not None:
                nn.init.normal_(module.bias, std=0.3)
        return model

    return perturb


@pytest.fixture
def difference() -> Callable[..., float]:
    """max |student − teacher| over max |teacher|."""

    def measure(teacher: nn.Module, student: nn.Module, x: Tensor, train: bool = False) -> float:
        outputs = []
        for model in (teacher, student):
            run = copy.deepcopy(model).train(train)  # batch norms must not move here
            with torch.no_grad():
                outputs.append(run(x))
        return float((outputs[1] - outputs[0]).abs().max() / outputs[0].abs().max())

    return measure

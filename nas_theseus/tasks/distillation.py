"""Distillation losses for each kind of output: how far outputs are from the teacher's."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def of_classes(outputs: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """KL divergence of softened distributions from the teacher's, times T², a scalar.

    The mean is over all positions: examples, and their tokens or pixels if they have any.

    Args:
        outputs, teacher: logits, with the classes along `dim`.
        temperature: T, by which both networks' logits are divided.
        dim: 1 for (B, C) and maps (B, C, H, W), -1 for tokens (B, T, V).

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2.
    """
    student, target = (
        functional.log_softmax(logits.movedim(dim, -1) / temperature, dim=-1).flatten(0, -2)
        for logits in (outputs, teacher)
    )
    divergence = functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def of_labels(outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """KL divergence of softened Bernoulli distributions, times T², mean over labels, a scalar.

    Args:
        outputs, teacher: one logit for each label, shape (B, L).
        temperature: T, by which both networks' logits are divided.
    """
    student, target = (
        torch.stack([functional.logsigmoid(x), functional.logsigmoid(-x)], dim=-1).flatten(0, -2)
        for x in (outputs / temperature, teacher / temperature)
    )
    divergence = functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def of_numbers(outputs: Tensor, teacher: Tensor, spread: Tensor) -> Tensor:
    """Squared differences in units of the targets' spread, mean over numbers, a scalar.

    So in any units, 1 is the error of always predicting the targets' mean.

    Args:
        outputs, teacher: predicted numbers, shape (B, K).
        spread: standard deviation of each number in the training split, shape (K,).
    """
    return ((outputs - teacher) / spread).square().mean()

"""Features to compare, and CKA by its definitions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def features(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def related(rows: int, width: int, other: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two sets of features that share part of what they hold."""
    x = features(rows, width, seed=seed) + 0.7
    mixing = features(width, other, seed=seed + 1)
    return x, torch.relu(x @ mixing) + features(rows, other, seed=seed + 2)


def numpy_cka(x: Tensor, y: Tensor, unbiased: bool = False) -> float:
    """CKA by centring matrices (biased) or explicit sums over distinct indices (unbiased)."""
    k, l = (a.numpy() @ a.numpy().T for a in (x, y))  # noqa: E741
    n = len(k)
    if not unbiased:
        h = np.eye(n) - np.ones((n, n)) / n

        def hsic(a: np.ndarray, b: np.ndarray) -> float:
            return float(np.trace(a @ h @ b @ h))
    else:

        def hsic(a: np.ndarray, b: np.ndarray) -> float:
            two = three = four = 0.0
            for i in range(n):
                for j in range(n):
                    if j == i:
                        continue
                    two += a[i, j] * b[i, j]
                    for q in range(n):
                        if q in (i, j):
                            continue
                        three += a[i, j] * b[i, q]
                        for r in range(n):
                            if r not in (i, j, q):
                                four += a[i, j] * b[q, r]
            # Gretton et al. 2005: HSIC is a U-statistic of these three sums.
            return (
                two / (n * (n - 1))
                + four / (n * (n - 1) * (n - 2) * (n - 3))
                - 2 * three / (n * (n - 1) * (n - 2))
            )

    return hsic(k, l) / np.sqrt(hsic(k, k) * hsic(l, l))

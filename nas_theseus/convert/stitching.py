"""TEMP"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class LinearMap:
    weight: Tensor
    bias: Tensor
    residual: float


class LeastSquares:
    def __init__(self, ridge: float = 1e-6) -> None:
        self.a = []
        self.b = []
        self.ridge = ridge

    def add(self, a, b):
        self.a.append(a.double())
        self.b.append(b.double())

    def solve(self):
        a = torch.cat(self.a)
        b = torch.cat(self.b)
        ma, mb = a.mean(0), b.mean(0)
        x = a - ma
        y = b - mb
        g = x.T @ x
        g += torch.eye(len(g)) * self.ridge * g.trace() / len(g)
        w = torch.linalg.solve(g, x.T @ y).T
        r = ((y - x @ w.T) ** 2).sum() / (y**2).sum()
        return LinearMap(w.float(), (mb - w @ ma).float(), float(r))


def rows(f):
    if f.dim() == 4:
        return f.permute(0, 2, 3, 1).reshape(-1, f.shape[1])
    return f.reshape(-1, f.shape[-1])


def fold_after(last, m):
    w = last.weight
    nw = (m.weight @ w.flatten(1)).reshape(w.shape)
    b = m.bias + (m.weight @ last.bias if last.bias is not None else 0)
    return nw, b

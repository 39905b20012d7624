"""Networks for scikit-learn's digits: accuracy against multiply-adds, each trained from scratch.

Run it in this folder: ``python example.py [TRIALS]``. `nas-theseus search` would convert a trained
guide into each network instead of training it from scratch, and run trials in parallel.
"""

from __future__ import annotations

import sys
from pathlib import Path

import optuna
import optunahub
import torch
from sklearn.datasets import load_digits
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Keep, Linear
from nas_theseus.conversion.target import assemble
from nas_theseus.costs.table import CostTable
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture

STEPS = 60


def conv(inlet: int, outlet: int, stride: int = 1) -> nn.Module:
    """A convolution as guides are made of."""
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU())


head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
guide = nn.Sequential(conv(1, 8), conv(8, 8), conv(8, 16, 2), head)
space = SearchSpace(
    guide=cut(guide, ["0", "1", "2"], (1, 8, 8)),
    task=digits(),
    blocks=[Keep(), Depthwise(expand=choice(1, 2)), Linear()],
    keep=["head"],
)
costs = CostTable(space)
pictures, labels = load_digits(return_X_y=True)
pictures = torch.tensor(pictures, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16
labels = torch.tensor(labels)


def accuracy(architecture: Architecture) -> float:
    """Of a network on 400 digits, after a little training on the others."""
    torch.manual_seed(0)
    network = assemble(space, architecture, 0)
    optimizer = torch.optim.Adam(network.parameters(), lr=3e-3)
    for _ in range(STEPS):
        batch = 400 + torch.randint(len(labels) - 400, (64,))
        loss = nn.functional.cross_entropy(network(pictures[batch]), labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        return float((network(pictures[:400]).argmax(1) == labels[:400]).float().mean())


root = Path(__file__).resolve().parents[2]
module = optunahub.load_local_module("samplers/theseus_sampler", registry_root=str(root))
sampler = module.TheseusSampler(space, seed=0)


def objective(trial: optuna.Trial) -> tuple[float, float]:
    """Accuracy and multiply-adds of the architecture that a trial's parameters mean."""
    genes = {
        name: trial.suggest_categorical(name, values)
        for name, values in sampler.genome.genes.items()
    }
    architecture = sampler.genome.decode(genes)
    return accuracy(architecture), float(costs.of(architecture).macs)


study = optuna.create_study(directions=["maximize", "minimize"], sampler=sampler)
study.optimize(objective, n_trials=int(sys.argv[1]) if len(sys.argv) > 1 else 20)
for best in sorted(study.best_trials, key=lambda one: one.values[1]):
    print(f"accuracy {best.values[0]:.3f}, {best.values[1]:,.0f} multiply-adds: {best.params}")

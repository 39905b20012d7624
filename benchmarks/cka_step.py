"""What CKA adds to a training step of one residual block, and what cheaper forms lose by it.

Cost: the similarity's forward and backward beside the forward and backward of a basic residual
block, alternating in one process, medians of repeats, each ratio within its repeat. Faithfulness:
along the conversion of a digits network, correlation of each form with CKA of whole raw maps, and
the full CKA that a block reaches when each form trains it.

    python -m benchmarks.cka_step
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits  # type: ignore[import-untyped]
from torch import Tensor, nn

from benchmarks.record import write_record
from nas_theseus.conversion.similarities.cka import linear_cka
from nas_theseus.conversion.similarity import Similarity, agreement, similarity

DEFAULT = "cka (default: pool 8)"
STRAIGHTFORWARD = "raw Gram, guide's too"
FORMS: dict[str, Similarity] = {
    DEFAULT: similarity("cka"),
    "raw Gram, guide's prepared": similarity("cka", pool=None),
    "pool 4": similarity("cka", pool=4),
    "project 512": similarity("cka", pool=None, project=512),
    "project 1024": similarity("cka", pool=None, project=1024),
    "project 2048": similarity("cka", pool=None, project=2048),
    "unbiased, pool 8": similarity("cka-unbiased"),
    "D-MNN, pool 8": similarity("dmnn"),
    "positions, 4096 rows": similarity("cka", examples="positions", pool=None),
    "positions, all rows": similarity("cka", examples="positions", pool=None, rows=None),
    "regression": similarity("regression"),
}


class Residual(nn.Module):
    """Basic residual block: two 3x3 convolutions with batch norm and ReLU."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, features: Tensor) -> Tensor:
        """Same shape as the features."""
        return torch.relu(features + self.body(features))


def seconds(step: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def step_shares(batch: int, width: int, size: int, repeats: int) -> dict[str, dict[str, float]]:
    """Each form's forward and backward as a share of the block's, and in milliseconds."""
    block = Residual(width)
    inputs = torch.randn(batch, width, size, size, requires_grad=True)
    upstream = torch.randn(batch, width, size, size)
    guide = block(torch.randn(batch, width, size, size)).detach()
    features = block(inputs).detach().requires_grad_()
    steps: dict[str, Callable[[], object]] = {}
    for name, form in FORMS.items():
        prepared = form.prepare(guide)

        steps[name] = partial(align, form, features, prepared)
    # What a first version does: both Gram matrices of the raw maps, at every step.
    steps[STRAIGHTFORWARD] = partial(align_plainly, features, guide)
    times: dict[str, list[float]] = {name: [] for name in steps}
    shares: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(repeats + 1):
        for name, step in steps.items():
            whole = seconds(lambda: block(inputs).backward(upstream))
            own = seconds(step)
            features.grad = inputs.grad = None
            if repeat:  # the first warms up
                times[name].append(1000 * own)
                shares[name].append(own / whole)
    return {
        name: {
            "milliseconds": statistics.median(times[name]),
            "share": statistics.median(shares[name]),
            "share_smallest": min(shares[name]),
            "share_largest": max(shares[name]),
        }
        for name in steps
    }


def align(form: Similarity, features: Tensor, prepared: Any) -> None:
    """Forward and backward of one form."""
    form.loss(features, prepared).backward()  # type: ignore[no-untyped-call]


def align_plainly(features: Tensor, guide: Tensor) -> None:
    """Forward and backward of CKA as the formula reads."""
    (1 - raw_gram_cka(features, guide)).backward()  # type: ignore[no-untyped-call]


def raw_gram_cka(x: Tensor, y: Tensor) -> Tensor:
    """CKA as the formula reads, by Gram matrices of flattened maps."""
    x, y = x.flatten(1), y.flatten(1)
    x, y = x - x.mean(0), y - y.mean(0)
    k, l = x @ x.T, y @ y.T  # noqa: E741
    cka: Tensor = (k * l).sum() / (torch.linalg.norm(k) * torch.linalg.norm(l))
    return cka


def digits(size: int) -> tuple[Tensor, Tensor]:
    """Digits enlarged to size x size, and their classes."""
    data = load_digits()
    images = torch.tensor(data.images, dtype=torch.float32)[:, None] / 8 - 1
    order = torch.randperm(len(images))
    return F.interpolate(images[order], size=(size, size), mode="bilinear"), torch.tensor(
        data.target
    )[order]


def faithfulness(batch: int, width: int, size: int, steps: int, seed: int) -> dict[str, Any]:
    """Correlation with full CKA along trainings, and the full CKA reached by each form."""
    torch.manual_seed(seed)
    images, classes = digits(size)
    stem = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
    guide = nn.Sequential(stem, Residual(width), Residual(width))
    network = nn.Sequential(guide, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * width, 10))
    optimizer = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for step in range(steps):
        chosen = torch.arange(step * 64, step * 64 + 64) % (len(images) - batch)
        optimizer.zero_grad()
        loss = F.cross_entropy(network(images[chosen]), classes[chosen])
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    guide.eval()
    held_out = images[-batch:]
    with torch.no_grad():
        accuracy = float((network.eval()(held_out).argmax(1) == classes[-batch:]).float().mean())
        train_in = stem(images[:batch])
        train_goal = guide(images[:batch])
        test_in, test_goal = stem(held_out), guide(held_out)
    seen: list[dict[str, float]] = []
    reached: dict[str, float] = {}
    for name, form in FORMS.items():
        torch.manual_seed(seed + 1)
        # A cheaper block of another kind for the guide's two residual blocks.
        block = nn.Sequential(
            nn.Conv2d(width, width, 5, padding=2, groups=width),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Conv2d(width, width, 1),
            nn.BatchNorm2d(width),
        )
        prepared = form.prepare(train_goal)
        optimizer = torch.optim.AdamW(block.parameters(), lr=1e-2)
        for step in range(steps + 1):
            if step % max(1, steps // 5) == 0:
                with torch.no_grad():
                    features = block(test_in)
                    seen.append(
                        {
                            other: float(agreement(FORMS[other], features, test_goal))
                            for other in FORMS
                        }
                    )
            optimizer.zero_grad()
            form.loss(block(train_in), prepared).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        with torch.no_grad():
            reached[name] = float(linear_cka(block(test_in), test_goal))
    full = torch.tensor([row["raw Gram, guide's prepared"] for row in seen])
    correlation = {
        name: float(
            torch.corrcoef(torch.stack([full, torch.tensor([r[name] for r in seen])]))[0, 1]
        )
        for name in FORMS
    }
    return {
        "guide_accuracy": accuracy,
        "correlation_with_full_cka": correlation,
        "full_cka_reached": reached,
        "points": len(seen),
        "full_cka_range": [float(full.min()), float(full.max())],
    }


def main() -> None:
    """Measure, print and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--width", type=int, default=16)
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--steps", type=int, default=40, help="training steps of each block")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--threads", type=int, default=1)
    settings = parser.parse_args()
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seeds[0])
    costs = step_shares(settings.batch, settings.width, settings.size, settings.repeats)
    faithful = {
        seed: faithfulness(settings.batch, settings.width, settings.size, settings.steps, seed)
        for seed in settings.seeds
    }

    def mean(figure: str, name: str) -> float:
        return statistics.mean(float(result[figure][name]) for result in faithful.values())

    print(f"{'form':28}   ms  share of step  corr. with full CKA  full CKA reached")
    for name, cost in costs.items():
        line = f"{name:28} {cost['milliseconds']:5.1f} {cost['share']:13.3f}"
        if name in FORMS:
            correlation, reached = (
                mean(figure, name) for figure in ("correlation_with_full_cka", "full_cka_reached")
            )
            line += f" {correlation:20.4f} {reached:17.4f}"
        print(line)
    path = write_record(
        "cka_step",
        {
            "cka_step_share": costs[DEFAULT]["share"],
            "cka_step_share_straightforward": costs[STRAIGHTFORWARD]["share"],
            "cka_correlation_with_full": mean("correlation_with_full_cka", DEFAULT),
            "cka_full_reached_by_default": mean("full_cka_reached", DEFAULT),
            "cka_full_reached_by_full": mean("full_cka_reached", "raw Gram, guide's prepared"),
        },
        [
            *({"form": name, "threads": settings.threads, **cost} for name, cost in costs.items()),
            *({"seed": seed, **result} for seed, result in faithful.items()),
        ],
        settings.seeds,
        {},
        packages=("torch",),
    )
    print(f"wrote {path}")


if __name__ == "__main__":
    main()

"""Function-preserving transforms measured: docs/evidence/transforms-evidence.md.

    python -m benchmarks.transforms --function    only how far students are from their teachers
    python -m benchmarks.transforms --all         every cell that is missing, then the report
    python -m benchmarks.transforms --report      figures, table and plots from what is there
    python -m benchmarks.transforms --all --epochs 1 --images 1024 --seeds 0    a trial of all

A cell is one network trained with one seed. Every cell is written to results/transforms_cells.jsonl
as it ends; delete a line to run its cell again. Teachers come first and are kept in theseus/.

Experiments, on Fashion-MNIST, or on CIFAR-10 with `--cifar` and the folder of its files:

- widen: ResNetCifar-18(r), and its students with every volume √2 times as wide (source, table 2).
- plain: the same without residual connections, which Net2WiderNet needs.
- deepen: ResNetCifar-10(r), and its students with as many layers as -18(r).
- grow: training that begins narrow and doubles the width on its way, against the wide net alone.
- scale: R2WiderR with new weights larger and smaller than their neighbours, the first epoch.
- overfit: few images, teachers with and without regularisation, and what their students gain.
- tune: learning rates and weight decays of `widen`, chosen on validation, with a seed of its own.

A net `from scratch` has its student's architecture and the teacher's recipe.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks import cells as cells_file
from benchmarks import transforms_report as report
from benchmarks.record import RESULTS, commit
from benchmarks.transforms_networks import ResNetCifar, function_rows
from nas_theseus.conversion.target import reinitialise
from nas_theseus.costs import count_macs, count_params
from nas_theseus.guide.weights import load_weights, plain_state
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.tasks import Task, fashion_mnist, from_datasets
from nas_theseus.tasks.score import score
from nas_theseus.transforms import Lineage, deepen, widen_all

ROOT = Path(__file__).resolve().parent.parent
CELLS = RESULTS / "transforms_cells.jsonl"
FUNCTION = RESULTS / "transforms_function.json"
TEACHERS = ROOT / "theseus" / "transforms"

SEEDS = (0, 1, 2)
EPOCHS = 30
IMAGES = 12_000
WIDTH = 8  # 64 r, so r = 1/8
BATCH = 128
# Learning rate and weight decay, chosen by the experiment `tune`. The source regularises teachers
# heavily and searches for every net's own.
RATE, DECAY = 3e-3, 3.0
STUDENT_RATE, STUDENT_DECAY = 3e-3, 3.0
TUNING_SEED = 7
TRIED = {
    "scratch": ((1e-2, 0.5), (1e-2, 1.0), (3e-3, 1.0), (3e-3, 3.0)),
    "student": ((3e-3, 3.0), (1e-3, 3.0)),
}
ROOT_2 = 2**0.5
SCALES = (0.1, 1.0, 2.0, 4.0, 8.0)
# `scale` trains for an epoch at this constant rate; scored after these steps, too.
SCALE_RATE, SCALE_STEPS = RATE / 10, (1, 3, 10, 30)
# Of all epochs, when the width doubles.
GROWN_AT = (1 / 3, 1 / 2, 2 / 3)
FEW = 6  # the overfitted teacher has one image in six

WIDENING = ("teacher", "scratch", "r2wider", "netmorph", "random-pad")
METHODS: dict[str, tuple[str, ...]] = {
    "widen": WIDENING,
    "plain": ("teacher", "scratch", "net2wider", "r2wider"),
    "deepen": ("teacher", "scratch", "r2deeper", "random-pad", "net2deeper"),
    "grow": ("scratch", *(f"grown at {share:.2f}" for share in GROWN_AT)),
    "scale": tuple(f"scale {scale:g}" for scale in SCALES),
    "tune": (
        "teacher",
        *(f"{net} {rate:g} {decay:g}" for net, tried in TRIED.items() for rate, decay in tried),
    ),
    "overfit": ("teacher", "regularised teacher", "scratch", "student", "regularised student"),
}


@dataclass(frozen=True, order=True)
class Cell:
    """What one run is.

    Attributes:
        data: fashion or cifar.
        epochs: of a teacher, of a net from scratch and of a student alone.
        images: to train on.
    """

    experiment: str
    method: str
    seed: int
    epochs: int
    images: int
    data: str

    @property
    def is_teacher(self) -> bool:
        return "teacher" in self.method


@lru_cache(maxsize=2)
def task_of(data: str, folder: str | None, images: int) -> Task:
    """Fashion-MNIST, or CIFAR-10 from torchvision's files."""
    if data == "fashion":
        return fashion_mnist(train_images=images)
    from torchvision.datasets import CIFAR10  # slow, rarely wanted

    train, test = (CIFAR10(folder, train=train) for train in (True, False))
    some = torch.utils.data.Subset(train, range(min(len(train), images * 10 // 9)))
    return from_datasets(some, test, inlet=(3, 32, 32), name="cifar10")


def new_network(cell: Cell, task: Task) -> nn.Module:
    """The experiment's teacher, untrained."""
    blocks = 2 if cell.experiment == "deepen" else 4
    torch.manual_seed(cell.seed)
    return ResNetCifar(blocks, WIDTH, task.inlet.shape[0], residual=cell.experiment != "plain")


def student_of(teacher: nn.Module, cell: Cell, method: str, task: Task) -> nn.Module:
    """The experiment's student by one method."""
    if cell.experiment != "deepen":
        wider = 2.0 if cell.experiment == "grow" else ROOT_2
        # Copies would stay equal for ever.
        noise = 0.02 if method == "net2wider" else 0.0
        return widen_all(teacher, task.inlet, wider, method, noise=noise, seed=cell.seed)
    student = copy.deepcopy(teacher)
    for number, (name, _) in enumerate(teacher.blocks.named_children()):  # type: ignore[union-attr]
        for again in range(2 if method == "net2deeper" else 1):  # one layer each, or a block of two
            student = deepen(
                student,
                f"blocks.{name}",
                method=method,
                inlet=task.inlet,
                activation=None if method == "net2deeper" else nn.ReLU(),
                seed=8 * cell.seed + 2 * number + again,
                in_place=True,
            )
    return student


class Training:
    """One net in training, over one schedule; the net may grow on its way.

    AdamW; the learning rate rises for a twentieth of all epochs and falls along a cosine; that of
    the experiment `scale` is constant.
    """

    def __init__(
        self, network: nn.Module, task: Task, cell: Cell, epochs: int, rate: float, decay: float
    ) -> None:
        # A fifth faster on processors than the default layout.
        self.network = network.to(memory_format=torch.channels_last)
        self._task, self._cell = task, cell
        self._epochs, self._rate, self._decay = epochs, rate, decay
        self._by_steps = cell.experiment == "scale"
        self.optimizer = self._new_optimizer()
        # Many epochs of few images are scored as seldom as few epochs of many.
        self._scored_each = max(1, epochs // cell.epochs)
        self._done = 0
        self.macs = self.steps = 0
        self.curve: list[dict[str, float]] = []
        self._tell(0)

    def _new_optimizer(self) -> torch.optim.AdamW:
        kernels = [p for p in self.network.parameters() if p.ndim > 1]
        others = [p for p in self.network.parameters() if p.ndim < 2]  # biases, norms: no decay
        groups: list[dict[str, Any]] = [
            {"params": kernels, "weight_decay": self._decay},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=self._rate)

    def run(self, until: int) -> None:
        """Train up to the end of so many epochs."""
        each = count_macs(self.network, self._task.inlet)
        steps = self._task.size("train") // BATCH
        for epoch in range(self._done, until):
            self.network.train()
            torch.manual_seed(1000 * self._cell.seed + epoch)
            seed = 1000 * self._cell.seed + epoch
            for step, batch in enumerate(self._task.batches("train", BATCH, seed=seed)):
                done = (epoch + step / steps) / self._epochs
                warm = min(1.0, (done + 1 / steps) * 20)
                rate = self._rate * warm * (1 + math.cos(math.pi * min(1.0, done))) / 2
                if self._by_steps:
                    rate = self._rate
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                loss = self._task.loss(self.network(batch.inputs), batch.targets)
                self.optimizer.zero_grad(set_to_none=True)
                loss.backward()  # type: ignore[no-untyped-call]
                nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
                self.optimizer.step()
                self.steps += 1
                self.macs += 3 * len(batch.inputs) * each
                if self._by_steps and self.steps in SCALE_STEPS:
                    self._tell(float(loss.detach()))
                    self.network.train()
            self._done = epoch + 1
            if self._done % self._scored_each == 0:
                self._tell(float(loss.detach()))

    def grow(self) -> None:
        """Twice the width; the optimizer goes on with what it knows."""
        lineage, before = Lineage(self.network), self.optimizer
        wide = widen_all(self.network, self._task.inlet, 2.0, seed=self._cell.seed, lineage=lineage)
        self.network = wide.to(memory_format=torch.channels_last)
        self.optimizer = self._new_optimizer()
        lineage.carry(before, self.optimizer, self.network)

    def _tell(self, loss: float) -> None:
        validation = score(self.network, self._task, "validation")
        self.curve.append(
            {"steps": self.steps, "macs": self.macs, "validation": validation, "loss": loss}
        )


def teacher_of(cell: Cell, task: Task, regularised: bool = True) -> nn.Module:
    """The trained teacher of a student's cell, from its file."""
    experiment = {"scale": "widen"}.get(cell.experiment, cell.experiment)
    method = "teacher" if cell.experiment != "overfit" or not regularised else "regularised teacher"
    own = Cell(experiment, method, cell.seed, cell.epochs, cell.images, cell.data)
    network = new_network(own, task)
    load_weights(network, teacher_file(own))
    return network


def teacher_file(cell: Cell) -> Path:
    """Where a trained teacher is kept."""
    name = "-".join(str(value) for value in asdict(cell).values()).replace(" ", "_")
    return TEACHERS / f"{name}.safetensors"


def run_cell(cell: Cell, folder: str | None) -> dict[str, Any]:
    """One cell, in a process of its own."""
    started = time.perf_counter()
    images = cell.images // FEW if cell.experiment == "overfit" else cell.images
    task = task_of(cell.data, folder, images)
    # As many steps for few images: the teacher sees each more often.
    epochs = cell.epochs * (FEW if cell.experiment == "overfit" else 1)
    rate, decay = RATE, DECAY
    kind = cell.method.split()[0]  # how the net begins, for methods with numbers behind it
    if cell.is_teacher:
        network = new_network(cell, task)
        decay = 0.0 if cell.experiment == "overfit" and kind == "teacher" else DECAY
    elif cell.experiment == "grow" and kind == "grown":
        network = new_network(cell, task)
    elif kind == "scratch":
        network = student_of(new_network(cell, task), cell, _first_method(cell), task)
        torch.manual_seed(cell.seed)
        reinitialise(network)
    else:
        teacher = teacher_of(cell, task, regularised=cell.method != "student")
        rate, decay = STUDENT_RATE, STUDENT_DECAY
        if cell.experiment == "scale":
            scale = float(cell.method.removeprefix("scale "))
            # In float32 large ones are refused: sums that ought to cancel round off.
            network = widen_all(teacher.double(), task.inlet, ROOT_2, scale=scale, seed=cell.seed)
            network.float()
            epochs, rate = 1, SCALE_RATE
        else:
            method = "r2wider" if cell.experiment in ("overfit", "tune") else cell.method
            network = student_of(teacher, cell, method, task)
    if cell.experiment == "tune" and not cell.is_teacher:
        rate, decay = (float(number) for number in cell.method.split()[1:])
    training = Training(network, task, cell, epochs, rate, decay)
    if cell.method.startswith("grown"):
        training.run(round(float(cell.method.removeprefix("grown at ")) * epochs))
        training.grow()
    training.run(epochs)
    network = training.network
    if cell.is_teacher:
        write_tensors(teacher_file(cell), plain_state(network))
    return {
        **asdict(cell),
        "commit": commit(),
        "validation": training.curve[-1]["validation"],
        "test": None if cell.experiment == "tune" else score(network, task, "test"),
        "train_accuracy": score(network, task, "train"),
        "macs": count_macs(network, task.inlet),
        "params": count_params(network),
        "train_macs": training.macs,
        "curve": training.curve,
        "seconds": time.perf_counter() - started,
    }


def _first_method(cell: Cell) -> str:
    return "r2deeper" if cell.experiment == "deepen" else "r2wider"


def finished() -> dict[Cell, dict[str, Any]]:
    """The cells that are there."""
    return cells_file.finished(CELLS, Cell)


def run_missing(cells: Iterable[Cell], jobs: int, deadline: float, folder: str | None) -> bool:
    """Run the cells that are not there, each kept as it ends.

    A teacher whose file is gone is trained again, under its old line.

    Returns:
        Whether all are there now: students need their teachers.
    """
    done = finished()
    missing = [c for c in cells if c not in done or (c.is_teacher and not teacher_file(c).exists())]

    def keep(cell: Cell, row: dict[str, Any]) -> str:
        if cell not in done:
            cells_file.append(CELLS, row)
        return f"validation {row['validation']:.4f}, {row['seconds']:.0f} s"

    return cells_file.run_cells(
        missing, lambda cell: partial(run_cell, cell, folder), keep, jobs, deadline
    )


def measure_function() -> None:
    """How far students are from their teachers, into `FUNCTION`."""
    rows = []
    for row in function_rows():
        rows.append(row)
        said = row.get("refused") or f"{row['error']:.2g}"
        print(
            *(row.get(k, "") for k in ("network", "transform", "method", "dtype")), said, flush=True
        )
    FUNCTION.write_text(json.dumps(rows, indent=1) + "\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--all", action="store_true", help="run what is missing, and report")
    parser.add_argument("--function", action="store_true", help="only how exact transforms are")
    parser.add_argument("--report", action="store_true", help="only write the report")
    parser.add_argument("--experiment", choices=METHODS, nargs="+", help="only these")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--images", type=int, default=IMAGES)
    parser.add_argument("--cifar", help="folder that torchvision's CIFAR10 has filled")
    parser.add_argument("--minutes", type=float, default=math.inf, help="start no cell after it")
    parser.add_argument("--jobs", type=int, default=2, help="cells at a time")
    given = parser.parse_args(arguments)
    deadline = time.time() + 60 * given.minutes
    if given.function or (given.all and not FUNCTION.exists()):
        measure_function()
    if given.all or given.experiment:
        data = "cifar" if given.cifar else "fashion"
        cells = [
            Cell(experiment, method, seed, given.epochs, given.images, data)
            for experiment in given.experiment or METHODS
            for seed in ([TUNING_SEED] if experiment == "tune" else given.seeds)
            for method in METHODS[experiment]
        ]
        cells.sort(key=lambda cell: cell.seed)  # one seed whole before the next
        if "scale" in (given.experiment or ()):  # its teachers are those of `widen`
            cells += [
                Cell("widen", "teacher", seed, given.epochs, given.images, data)
                for seed in given.seeds
            ]
        teachers = list(dict.fromkeys(cell for cell in cells if cell.is_teacher))
        for group in (teachers, [cell for cell in cells if not cell.is_teacher]):
            if not run_missing(group, given.jobs, deadline, given.cifar):
                break
    rows = [
        row
        for cell, row in finished().items()
        if (cell.epochs, cell.images) == (given.epochs, given.images)
    ]
    function = json.loads(FUNCTION.read_text()) if FUNCTION.exists() else []
    report.write(rows, function, given.seeds, METHODS)


if __name__ == "__main__":
    main()

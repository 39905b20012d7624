"""Check that tasks provide everything they must, before any training; one sentence per mistake.

`check`, `search`, `convert` and `stitch` all check the tasks that they are given here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar, get_args

import torch
from torch import Tensor

from nas_theseus.errors import TheseusError
from nas_theseus.tasks.metric import name_mistake
from nas_theseus.tasks.score import as_number, empty_meter
from nas_theseus.tasks.task import SPLITS, Batch, Split, Task
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction

T = TypeVar("T")

_VALUES = ("name", "metric", "direction", "inlet", "outputs")
_METHODS = ("data_hash", "size", "batches", "sample", "loss", "meter")
_EXAMPLES = 8


def declared_mistakes(tasks: Mapping[str, object]) -> list[str]:
    """Mistakes in the names and shapes of all tasks that are used together.

    Args:
        tasks: what messages call each task, and the task.
    """
    return [
        f"{label}: {mistake}"
        for label, task in tasks.items()
        for mistake in declaration_mistakes(task)
    ]


def used_mistakes(
    tasks: Mapping[str, Task], *, taught: bool = False, scored: bool = False
) -> list[str]:
    """Mistakes in data, losses, metrics and distillation of all tasks that are used together.

    Args:
        tasks: as for `declared_mistakes`, where they have none.
        taught: whether candidates, which learn the task called "task", are taught by the guide.
        scored: whether blocks are scored by their divergence on that task.
    """
    said: dict[str, str] = {}
    checked: list[Task] = []
    for label, task in tasks.items():
        if not any(task is other for other in checked):
            checked.append(task)
            mine = label == "task"
            for mistake in behaviour_mistakes(task, taught=taught and mine, scored=scored and mine):
                said.setdefault(mistake, label)
    return [
        mistake if label == "task" else f"{label}: {mistake}" for mistake, label in said.items()
    ]


def declaration_mistakes(task: object) -> list[str]:
    """Mistakes in a task's names and shapes; empty if there are none.

    If there are any, neither the rest of the task nor a space with it can be checked.
    """
    # Looked up without calling it: a property may load data.
    absent = [n for n in (*_VALUES, *_METHODS) if inspect.getattr_static(task, n, None) is None]
    absent = [name for name in absent if name not in vars(task)]
    if absent:
        kind = type(task).__name__
        return [f"{kind} has no {_listed(absent)}; `nas_theseus.tasks.Task` says what each is"]
    return list(_wrong_values(task))


def _wrong_values(task: Any) -> Iterator[str]:
    for name in _METHODS:
        if not callable(getattr(task, name, None)):
            yield f"`{name}` must be a method, not {_shown(getattr(task, name, None))}"
    if not isinstance(given := _caught(lambda: task.name), str) or not given:
        yield _not(given, "name", "a text that is not empty")
    metric = _caught(lambda: task.metric)
    if isinstance(metric, _Failure):
        yield _not(metric, "metric", "a name")
    elif wrong := name_mistake(metric):
        yield wrong
    else:
        direction = _caught(lambda: task.direction)
        if direction not in get_args(Direction):
            yield _not(direction, "direction", "'maximize' or 'minimize'")
    for side in ("inlet", "outputs"):
        boundary = _caught(lambda side=side: getattr(task, side))  # type: ignore[misc]
        sizes = boundary.shape if isinstance(boundary, Boundary) else ()
        if not (isinstance(sizes, tuple) and sizes and all(_whole(n) and n > 0 for n in sizes)):
            yield _not(boundary, side, "a Boundary of sizes above 0, such as Boundary((3, 32, 32))")
        elif len(sizes) > (1 if getattr(boundary, "integer", False) else 3):
            yield _not(boundary, side, "a Boundary (C,H,W), (T,D) or (D,), or (T,) of token ids")


def behaviour_mistakes(task: Task, taught: bool, scored: bool = False) -> list[str]:
    """Mistakes in a task's data, loss, metric and distillation; empty if there are none.

    Uses a few examples of each split, with random outputs.

    Args:
        task: a task without `declaration_mistakes`.
        taught: whether training distils from the guide's outputs, so that distillation is needed.
        scored: whether blocks are scored by the task's distillation if it has one.
    """
    mistakes = []
    if taught and not callable(getattr(task, "distillation", None)):
        mistakes.append(
            f"task {task.name!r} has no distillation, and recipe.distill is above 0; set "
            "Recipe(distill=0), or give the task distillation(outputs, teacher, temperature), a "
            "scalar that says how far outputs are from the guide's"
        )
        taught = False
    data = list(_data_mistakes(task))
    if not data:
        batch = _first(task, "validation", None)
        # Each part separately, so that one that raises does not hide the others.
        checks = {"loss": _loss_mistakes, "metric": _metric_mistakes}
        if taught or (scored and callable(getattr(task, "distillation", None))):
            checks["distillation"] = _distillation_mistakes
        for what, check in checks.items():
            found = _caught(lambda check=check: list(check(task, batch)))  # type: ignore[misc]
            said = [found.of(what)] if isinstance(found, _Failure) else found
            if what == "distillation" and not taught:
                said = [f"{one}; or set Recipe(divergence_examples=0)" for one in said]
            data += said
    prefix = f"task {task.name!r}: "
    return [*mistakes, *(prefix + mistake.removeprefix(prefix) for mistake in data)]


def _data_mistakes(task: Task) -> Iterator[str]:
    hashed = _caught(task.data_hash)
    if not isinstance(hashed, str) or not hashed:
        if isinstance(hashed, _Failure) and hashed.known:
            yield hashed.text
        else:
            yield _not(hashed, "data_hash()", "a text, the same for the same data")
        return  # the data cannot be read: all else would fail for the same reason
    for split in SPLITS:
        size = _caught(lambda split=split: task.size(split))  # type: ignore[misc]
        if not _whole(size) or size < 1:
            yield _not(size, f"size({split!r})", "the number of examples, at least 1")
            continue
        for seed in (None, 0) if split == "train" else (None,):
            found = _caught(lambda s=split, n=seed: list(_split_mistakes(task, s, n)))  # type: ignore[misc]
            what = f"batches({split!r}, …)"
            yield from [found.of(what)] if isinstance(found, _Failure) else found
    sample = _caught(lambda: task.sample(1))
    if not isinstance(sample, Tensor) or tuple(sample.shape) != (1, *task.inlet.shape):
        yield _not(sample, "sample(1)", f"a tensor of shape {(1, *task.inlet.shape)}")


def _split_mistakes(task: Task, split: Split, seed: int | None) -> Iterator[str]:
    call = f"batches({split!r}, {_EXAMPLES}" + ("" if seed is None else f", seed={seed}") + ")"
    batch = _first(task, split, seed)
    inputs, targets = batch.inputs, batch.targets
    if not isinstance(inputs, Tensor) or not isinstance(targets, Tensor):
        yield f"{call} must give tensors, not {_shown(inputs)} and {_shown(targets)}"
        return
    count = len(inputs)
    if not 1 <= count <= _EXAMPLES or tuple(inputs.shape[1:]) != task.inlet.shape:
        yield (
            f"{call} returns inputs of shape {tuple(inputs.shape)}; expected at most {_EXAMPLES} "
            f"of {task.inlet}"
        )
        return
    if len(targets) != count:
        yield f"{call} gives {count} inputs and {len(targets)} targets"
    if inputs.is_floating_point() == task.inlet.integer:
        wanted = "token ids, so whole numbers" if task.inlet.integer else "floats"
        yield f"{call} gives inputs of {inputs.dtype}; the inlet says {wanted}"
    for what, tensor in (("inputs", inputs), ("targets", targets)):
        if not torch.isfinite(tensor).all():
            yield f"{call} gives {what} that are NaN or infinite; remove those examples"
    if batch.index is not None and tuple(getattr(batch.index, "shape", ())) != (count,):
        yield f"{call} gives an index that is not one position for each of the {count} inputs"
    if seed is not None and not torch.equal(inputs, _first(task, split, seed).inputs):
        yield f"{call} gives other examples the second time; one seed must give one order"


def _loss_mistakes(task: Task, batch: Batch) -> Iterator[str]:
    outputs = _random_outputs(task, batch, 0)
    loss = task.loss(outputs, batch.targets)
    yield from _scalar_mistakes("loss", loss, outputs)


def _distillation_mistakes(task: Task, batch: Batch) -> Iterator[str]:
    outputs, teacher = (_random_outputs(task, batch, seed) for seed in (0, 1))
    teacher = teacher.detach()
    found = task.distillation(outputs, teacher, 2.0)
    wrong = list(_scalar_mistakes("distillation", found, outputs))
    yield from wrong
    if not wrong and float(task.distillation(teacher, teacher, 2.0)) > float(found.detach()):
        yield "distillation is greater for the guide's own outputs than for others; change its sign"


def _scalar_mistakes(what: str, value: object, outputs: Tensor) -> Iterator[str]:
    if not isinstance(value, Tensor) or value.dim() != 0:
        yield f"{what} must give a scalar tensor, the mean over the batch, not {_shown(value)}"
    elif not math.isfinite(float(value.detach())):
        yield f"{what} of random outputs is {float(value.detach())}; it must be finite"
    elif not value.requires_grad:
        yield f"{what} has no gradient; compute it from the outputs with torch, not as a number"
    else:
        (gradient,) = torch.autograd.grad(value, outputs, allow_unused=True)
        if gradient is None or not gradient.any():
            yield (
                f"{what} is {float(value.detach()):g} for any outputs: its gradient is 0; "
                "is a softmax taken over an axis of size 1?"
            )
        elif not torch.isfinite(gradient).all():
            yield f"the gradient of {what} is NaN or infinite for random outputs"


def _metric_mistakes(task: Task, batch: Batch) -> Iterator[str]:
    meter = task.meter()
    missing = [n for n in ("update", "compute", "reset") if not callable(getattr(meter, n, None))]
    if missing:
        yield f"meter() gives {_shown(meter)}, which has no {_listed(missing)}"
        return
    meter = empty_meter(task, "cpu")
    values = []
    with torch.inference_mode():
        outputs = _random_outputs(task, batch, 0).detach()
        for _ in range(2):
            meter.reset()
            meter.update(outputs, batch.targets)
            meter.update(outputs.flip(0), batch.targets)
            values.append(as_number(task.metric, meter.compute()))
    first, second = values
    if math.isnan(first):
        yield f"metric {task.metric!r} of random outputs is NaN; it must be a number"
    elif not math.isclose(first, second, rel_tol=1e-5, abs_tol=1e-6):
        yield (
            f"metric {task.metric!r} is {first:g} for some batches and {second:g} for the same "
            "batches after reset(); reset() must forget what came before"
        )


def _random_outputs(task: Task, batch: Batch, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    shape = (len(batch.inputs), *task.outputs.shape)
    return torch.randn(shape, generator=generator).requires_grad_()


def _first(task: Task, split: Split, seed: int | None) -> Batch:
    batches = task.batches(split, _EXAMPLES, seed=seed, limit=_EXAMPLES)
    for batch in batches:
        if not all(hasattr(batch, name) for name in Batch._fields):
            raise TypeError(f"batches must give Batch(inputs, targets, index), not {_shown(batch)}")
        return batch
    raise ValueError(f"batches({split!r}, {_EXAMPLES}, seed={seed}) gives no batch")


class _Failure:
    """An error raised by a task's own code, as text; `known` errors need no type name."""

    def __init__(self, error: Exception) -> None:
        self.known = isinstance(error, TheseusError)
        said = str(error).strip()
        self.text = said if self.known else f"{type(error).__name__}: {said.partition(chr(10))[0]}"

    def of(self, what: str) -> str:
        """What was raised, and by what where the error does not say it."""
        return self.text if self.known else f"{what}: {self.text}"


def _caught(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # a user's own task may raise anything
        return _Failure(error)


def _not(given: object, what: str, wanted: str) -> str:
    if isinstance(given, _Failure):
        return f"{what} cannot be read: {given.text}"
    return f"{what} must be {wanted}, not {_shown(given)}"


def _shown(value: object) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{repr(value).partition(chr(10))[0]:.60} ({type(value).__name__})"


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _listed(names: list[str]) -> str:
    *others, last = [f"`{name}`" for name in names]
    return f"{', '.join(others)} or {last}" if others else last

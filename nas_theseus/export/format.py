"""Write a found network as a file or folder for other tools; kept only if its outputs agree.

Each format is a module in ``export/formats``, or is added by a space file with `FORMATS.add`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor, nn

from nas_theseus.errors import ExportError
from nas_theseus.export.member import Member
from nas_theseus.storage.whole_files import replacing
from nas_theseus.tasks.score import scores
from nas_theseus.tasks.unlabelled import UnlabelledTask
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.ids import canonical_json
from nas_theseus.values.registers import FORMATS

EXAMPLES = 64
# Of the outputs for all examples: the logits of a large vocabulary at every token take gigabytes.
_MOST_NUMBERS = 1 << 26
# As a share of the largest output. Runtimes sum in another order than torch, which changes float32
# outputs by about 1e-6; a wrong operator or weight changes them far more.
TOLERANCE = 1e-4

# Formats for some kinds of networks alone, which no message offers to others.
SPECIAL = ("huggingface",)

Metadata: TypeAlias = dict[str, str]
Run: TypeAlias = Callable[[Tensor], Tensor]


class Format(Protocol):
    """One kind of file or folder. Members: `values.registers.FORMATS`.

    `write` and `read` may raise anything: `write_format` reports it as an `ExportError`. The fields
    of a format that is a dataclass are its options. A format whose files hold rounded weights has
    an attribute `tolerance`, which takes the place of `TOLERANCE`; where it is infinite, quality is
    measured again.
    """

    @property
    def suffix(self) -> str:
        """Ending of file names, such as ".onnx", or of folder names, to follow an id."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Modules that it imports in addition to the dependencies of nas-theseus."""

    def write(self, member: Member, inputs: Tensor, path: Path) -> None:
        """Write a network.

        Args:
            member: the network, in eval mode on the CPU, its space and its evaluation.
            inputs: examples, shape (B, *inlet).
            path: file to write or folder to create, under a temporary name.
        """

    def read(self, member: Member, path: Path) -> Run:
        """Load a written file as a function from (B, *inlet) to (B, *outlet), for any B.

        Args:
            member: its space, if the file alone is not enough to build the network.
        """


@dataclass(frozen=True)
class Checked:
    """A written file and how far its outputs are from the network's own.

    Attributes:
        size_bytes: of the file.
        examples: number of validation inputs that were run.
        batch_sizes: sizes of their batches.
        difference: the largest absolute difference between two outputs.
        relative: the same as a share of the largest output.
        quality: of formats without a tolerance, the task's metrics over the validation split: by
            name the network's own value and that of the file. Without labels they are nearness to
            the network itself.
    """

    path: Path
    size_bytes: int
    examples: int
    batch_sizes: tuple[int, ...]
    difference: float
    relative: float
    quality: Mapping[str, tuple[float, float]] = field(default_factory=dict)


def write_format(
    member: Member,
    name: str,
    path: Path,
    examples: int = EXAMPLES,
    options: Mapping[str, object] | None = None,
) -> Checked:
    """Write a found network as one file or folder, read it back and compare it with the network.

    Both run on the task's first validation inputs, in float32 on the CPU: all in one batch, then
    the first alone, since exports often fail for batches of one. An older file of this name is
    replaced only after that.

    Args:
        name: one of `FORMATS`.
        path: the file or folder; an existing file is replaced.
        examples: largest number of validation inputs to run.
        options: of the format, by name.

    Raises:
        UnknownNameError: there is no such format.
        ExportError: its packages are not installed, it has no such option, the path is a folder
            with files, it lacks an operator of the network, or the outputs differ by more than
            `TOLERANCE` of the largest.
        StorageError: the file cannot be written.
        DataError: the task's data are not available.
    """
    chosen = with_options(name, options or {})
    refuse_full_folder(path)
    tolerance: float = getattr(chosen, "tolerance", TOLERANCE)
    numbers = math.prod(member.space.guide.boundaries[-1].shape)
    examples = max(1, min(examples, _MOST_NUMBERS // numbers))
    inputs = next(member.space.task.batches("validation", examples, limit=examples)).inputs
    with replacing(path) as aside:
        try:
            chosen.write(member, inputs, aside)
            run = chosen.read(member, aside)
            found, expected = _outputs(run, inputs), _outputs(member.network, inputs)
            quality = _quality(run, member) if math.isinf(tolerance) else {}
        except (ExportError, OSError):
            raise
        except Exception as error:  # exporters and runtimes may raise anything
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise refusal(name, reason) from error
        difference, relative = _distance(found, expected)
        if not (math.isfinite(relative) and relative <= tolerance):  # NaN too
            raise ExportError(
                f"the outputs of the {name} file differ from the network's by up to "
                f"{difference:.3g}, {relative:.3g} of the largest output, on {len(inputs)} "
                f"validation inputs; at most {tolerance:g} of it is allowed. The file was not "
                f"saved; {_others(name)}"
            )
        size = sum(one.stat().st_size for one in (aside, *aside.rglob("*")) if one.is_file())
    return Checked(path, size, len(inputs), (len(inputs), 1), difference, relative, quality)


def find_format(name: str) -> Format:
    """A format by name.

    Raises:
        UnknownNameError: there is no such format.
        ExportError: its packages are not installed.
    """
    chosen: Format = FORMATS[name]
    missing = [need for need in chosen.needs if importlib.util.find_spec(need) is None]
    if missing:
        raise ExportError(
            f"format {name} needs {', '.join(missing)}, which you can install with "
            f"'pip install {' '.join(missing)}'; {_others(name)}"
        )
    return chosen


def with_options(name: str, options: Mapping[str, object]) -> Format:
    """A format by name, with these options; those that are None stay as they are.

    Raises:
        UnknownNameError: there is no such format.
        ExportError: it has no such option or value, or its packages are not installed.
    """
    chosen = find_format(name)
    given = {option: value for option, value in options.items() if value is not None}
    known = [str(name) for name in getattr(chosen, "__dataclass_fields__", ())]
    for option in given:
        if option not in known:
            has = f"its options are {', '.join(known)}" if known else "it has no options"
            raise ExportError(f"format {name} has no option {option}; {has}")
    return replace(chosen, **given) if given else chosen  # type: ignore[type-var]


def refuse_full_folder(path: Path) -> None:
    """Refuse to write over a folder with files, which nobody can want to lose.

    Raises:
        ExportError: there is such a folder.
    """
    if path.is_dir() and any(path.iterdir()):
        raise ExportError(
            f"{path} is a folder with files in it; remove it, or choose another place with --out"
        )


def refusal(name: str, reason: str) -> ExportError:
    """The error for a network that a format cannot hold."""
    return ExportError(f"the network cannot be written as {name}: {reason}; {_others(name)}")


def metadata(member: Member) -> Metadata:
    """Metadata of a file, as strings: architecture, shapes, task and measured values."""
    boundaries = member.space.guide.boundaries
    return {
        "architecture": canonical_json(member.evaluation.architecture.to_json()),
        "inlet": _shape(boundaries[0]),
        "outlet": _shape(boundaries[-1]),
        "task": member.space.task.name,
        "values": canonical_json(member.evaluation.values()),
    }


def _shape(boundary: Boundary) -> str:
    dtype = "int64" if boundary.integer else "float32"
    return canonical_json({"shape": list(boundary.shape), "dtype": dtype})


def _others(name: str) -> str:
    others = (other for other in FORMATS if other not in (name, *SPECIAL))
    return f"other formats: {', '.join(others)}"


def _outputs(run: Run, inputs: Tensor) -> Tensor:
    """Outputs of all in one batch, then of the first alone: (N + 1, *outlet)."""
    with torch.no_grad():
        return torch.cat([run(inputs), run(inputs[:1])])


class _Written(nn.Module):
    """A file that was read, as a module on the CPU."""

    def __init__(self, run: Run) -> None:
        super().__init__()
        self._run = run
        self.place = nn.Parameter(torch.empty(0))

    def forward(self, inputs: Tensor) -> Tensor:
        return self._run(inputs)


def _quality(run: Run, member: Member) -> dict[str, tuple[float, float]]:
    """Metrics over the validation split, of the network and of what was written.

    Without labels they are nearness to the network: a guide that is rebuilt has no weights.
    """
    task = member.space.task
    if isinstance(task, UnlabelledTask):
        task = replace(task, guide=member.network)
    before, after = (
        scores(network, task, "validation") for network in (member.network, _Written(run))
    )
    return {name: (before[name], after[name]) for name in before}


def _distance(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and its share of the largest expected output."""
    if found.shape != expected.shape:
        return math.inf, math.inf
    difference, largest = (found - expected).abs().max(), expected.abs().max()
    # Divided as tensors: if all expected outputs are 0, the share is infinite, not an error.
    return float(difference), float(difference / largest) if difference else 0.0

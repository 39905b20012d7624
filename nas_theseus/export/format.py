"""Write a found network as one file for other tools; kept only if it gives the same outputs.

Each format is a module in ``export/formats``, or is added by a space file with `FORMATS.add`.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from nas_theseus.errors import ExportError
from nas_theseus.export.member import Member
from nas_theseus.storage.whole_files import replacing
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.ids import canonical_json
from nas_theseus.values.registers import FORMATS

EXAMPLES = 64
# As a share of the largest output. Runtimes sum in another order than torch, which changes float32
# outputs by about 1e-6; a wrong operator or weight changes them far more.
TOLERANCE = 1e-4

Metadata: TypeAlias = dict[str, str]
Run: TypeAlias = Callable[[Tensor], Tensor]


class Format(Protocol):
    """One kind of file. Members: `values.registers.FORMATS`.

    `write` and `read` may raise anything: `write_format` reports it as an `ExportError`.
    """

    @property
    def suffix(self) -> str:
        """File name extension, such as ".onnx"."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Modules that it imports in addition to the dependencies of nas-theseus."""

    def write(self, member: Member, inputs: Tensor, path: Path) -> None:
        """Write a network.

        Args:
            member: the network, in eval mode on the CPU, its space and its evaluation.
            inputs: examples, shape (B, *inlet).
            path: file to write; a temporary one, renamed afterwards.
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
    """

    path: Path
    size_bytes: int
    examples: int
    batch_sizes: tuple[int, ...]
    difference: float
    relative: float


def write_format(member: Member, name: str, path: Path, examples: int = EXAMPLES) -> Checked:
    """Write a found network as one file, read it back and compare it with the network.

    Both run on the task's first validation inputs, in float32 on the CPU: all in one batch, then
    the first alone, since exports often fail for batches of one. An older file of this name is
    replaced only after that.

    Args:
        name: one of `FORMATS`.
        path: the file; an existing one is replaced.
        examples: number of validation inputs to run.

    Raises:
        UnknownNameError: there is no such format.
        ExportError: its packages are not installed, it lacks an operator of the network, or
            the outputs differ by more than `TOLERANCE` of the largest.
        StorageError: the file cannot be written.
        DataError: the task's data are not available.
    """
    chosen = find_format(name)
    inputs = next(member.space.task.batches("validation", examples, limit=examples)).inputs
    with replacing(path) as aside:
        try:
            chosen.write(member, inputs, aside)
            run = chosen.read(member, aside)
            found, expected = _outputs(run, inputs), _outputs(member.network, inputs)
        except (ExportError, OSError):
            raise
        except Exception as error:  # exporters and runtimes may raise anything
            reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
            raise refusal(name, reason) from error
        difference, relative = _distance(found, expected)
        if not relative <= TOLERANCE:  # NaN too
            raise ExportError(
                f"the outputs of the {name} file differ from the network's by up to "
                f"{difference:.3g}, {relative:.3g} of the largest output, on {len(inputs)} "
                f"validation inputs; at most {TOLERANCE:g} of it is allowed. The file was not "
                f"saved; {_others(name)}"
            )
        size = aside.stat().st_size
    return Checked(path, size, len(inputs), (len(inputs), 1), difference, relative)


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
    return f"other formats: {', '.join(other for other in FORMATS if other != name)}"


def _outputs(run: Run, inputs: Tensor) -> Tensor:
    """Outputs of all in one batch, then of the first alone: (N + 1, *outlet)."""
    with torch.no_grad():
        return torch.cat([run(inputs), run(inputs[:1])])


def _distance(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and its share of the largest expected output."""
    if found.shape != expected.shape:
        return math.inf, math.inf
    difference, largest = (found - expected).abs().max(), expected.abs().max()
    # Divided as tensors: if all expected outputs are 0, the share is infinite, not an error.
    return float(difference), float(difference / largest) if difference else 0.0

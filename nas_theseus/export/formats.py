"""A found network as one file that other tools read, kept only if it gives what the network gives.

Three formats: ``safetensors`` (weights, and in the metadata what rebuilds them), ``torch-export``
(a program for ``torch.export.load``) and ``onnx``.
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import safetensors
import safetensors.torch
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram

from nas_theseus.conversion.target import assemble
from nas_theseus.errors import ExportError
from nas_theseus.export.member import Member
from nas_theseus.guide.weights import plain_state
from nas_theseus.storage.whole_files import replacing
from nas_theseus.values.architecture import Architecture, Boundary
from nas_theseus.values.ids import canonical_json

EXAMPLES = 64
# Of the largest output. Runtimes add up in other orders than torch, which in float32 comes to
# about 1e-6; a wrong operator or weight comes to far more.
TOLERANCE = 1e-4
METADATA_FILE = "theseus.json"  # inside a .pt2

Metadata: TypeAlias = dict[str, str]
Run: TypeAlias = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Format:
    """One kind of file.

    Attributes:
        suffix: of its files.
        write: writes a member to a path; the inputs (B, *inlet) are examples to trace with.
        read: the function that a written file holds; the member says which space it is from.
        needs: packages beyond the project's own.
    """

    suffix: str
    write: Callable[[Member, Tensor, Path], None]
    read: Callable[[Member, Path], Run]
    needs: tuple[str, ...] = ()


@dataclass(frozen=True)
class Checked:
    """A written file and how far its outputs are from the network's own.

    Attributes:
        size_bytes: of the file.
        examples: how many validation inputs were run.
        batch_sizes: in which batches.
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
    """Write a found network as one file, read it anew and compare it with the network.

    Both run on the task's first validation inputs, in float32 on the CPU: all in one batch, and
    the first alone (a batch of one is what exports get wrong). The file takes its name only after
    that; an older file stays until then.

    Args:
        name: one of `FORMATS`.
        path: the file; an existing one is replaced.
        examples: how many validation inputs are run.

    Raises:
        ExportError: no such format, its packages are not installed, an operator that it lacks, or
            outputs that differ by more than `TOLERANCE` of the largest.
        StorageError: the file cannot be written.
        DataError: the task's data cannot be had.
    """
    chosen = format_of(name)
    inputs = next(member.space.task.batches("validation", examples, limit=examples)).inputs
    with replacing(path) as aside:
        try:
            chosen.write(member, inputs, aside)
            run = chosen.read(member, aside)
            found, expected = _outputs(run, inputs), _outputs(member.network, inputs)
        except (ExportError, OSError):
            raise
        except Exception as error:  # exporters and runtimes raise whatever they like
            raise _refusal(name, error) from error
        difference, relative = _distance(found, expected)
        if not relative <= TOLERANCE:  # NaN too
            raise ExportError(
                f"the {name} file gives other outputs than the network: they differ by up to "
                f"{difference:.3g}, {relative:.3g} of the largest output, on {len(inputs)} "
                f"validation inputs; at most {TOLERANCE:g} of it is allowed. Nothing was kept; "
                f"{_others(name)}"
            )
        size = aside.stat().st_size
    return Checked(path, size, len(inputs), (len(inputs), 1), difference, relative)


def metadata(member: Member) -> Metadata:
    """What a file says of itself, as strings: architecture, shapes, task and measured values."""
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


def format_of(name: str) -> Format:
    """A format by name.

    Raises:
        ExportError: no such format, or its packages are not installed.
    """
    if name not in FORMATS:
        raise ExportError(f"no format is called {name!r}; there are {', '.join(FORMATS)}")
    missing = [need for need in FORMATS[name].needs if importlib.util.find_spec(need) is None]
    if missing:
        raise ExportError(
            f"format {name} needs {', '.join(missing)}: pip install 'nas-theseus[export]'; "
            f"{_others(name)}"
        )
    return FORMATS[name]


def _others(name: str) -> str:
    return f"other formats: {', '.join(other for other in FORMATS if other != name)}"


def _refusal(name: str, error: Exception) -> ExportError:
    """What an exporter could not do, with the operator where its messages name one."""
    said = []
    cause: BaseException | None = error
    while cause is not None:
        said.append(str(cause))
        cause = cause.__cause__
    operator = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", "\n".join(said))
    what = (
        f"{name} has no operator for {operator[1]}"
        if operator
        else f"{type(error).__name__}: {said[0].strip().splitlines()[0]}"
    )
    return ExportError(f"the network cannot be written as {name}: {what}; {_others(name)}")


def _outputs(run: Run, inputs: Tensor) -> Tensor:
    """Outputs of all in one batch, then of the first alone: (N + 1, *outlet)."""
    with torch.no_grad():
        return torch.cat([run(inputs), run(inputs[:1])])


def _distance(found: Tensor, expected: Tensor) -> tuple[float, float]:
    """Largest absolute difference, and its share of the largest expected output."""
    if found.shape != expected.shape:
        return math.inf, math.inf
    difference, largest = (found - expected).abs().max(), expected.abs().max()
    # Division by tensors: zeros for something else are infinitely wrong, not an error.
    return float(difference), float(difference / largest) if difference else 0.0


def _write_safetensors(member: Member, inputs: Tensor, path: Path) -> None:
    del inputs
    said = {"format": "pt", **metadata(member)}
    path.write_bytes(safetensors.torch.save(plain_state(member.network), said))


def _read_safetensors(member: Member, path: Path) -> Run:
    """The network rebuilt from what the file itself says."""
    with safetensors.safe_open(path, "pt") as file:
        said = file.metadata()
    architecture = Architecture.from_json(json.loads(said["architecture"]))
    # Another seed than the member's: random state that is not in the file shows as a difference.
    network = assemble(member.space, architecture, 1)
    network.load_state_dict(safetensors.torch.load_file(path))
    return network.eval()


def _program(member: Member, inputs: Tensor) -> ExportedProgram:
    # At least two examples: torch takes a dimension of one for a constant.
    example = inputs if len(inputs) > 1 else inputs.expand(2, *inputs.shape[1:])
    program = torch.export.export(member.network, (example,), dynamic_shapes=({0: Dim("batch")},))
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)  # file names of who exports
    return program


def _write_program(member: Member, inputs: Tensor, path: Path) -> None:
    program = _program(member, inputs)
    with path.open("wb") as file:
        torch.export.save(
            program, file, extra_files={METADATA_FILE: canonical_json(metadata(member))}
        )


def _read_program(member: Member, path: Path) -> Run:
    del member
    with path.open("rb") as file:
        return torch.export.load(file).module()


def _write_onnx(member: Member, inputs: Tensor, path: Path) -> None:
    program = torch.onnx.export(
        _program(member, inputs),
        (inputs,),
        dynamo=True,
        verbose=False,
        input_names=["inputs"],
        output_names=["outputs"],
        dynamic_shapes=({0: "batch"},),
    )
    assert program is not None  # only without dynamo
    program.model.metadata_props.update(metadata(member))
    program.save(path, external_data=False)


def _read_onnx(member: Member, path: Path) -> Run:
    del member
    onnxruntime = importlib.import_module("onnxruntime")  # may be missing
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


FORMATS = {
    "safetensors": Format(".safetensors", _write_safetensors, _read_safetensors),
    "torch-export": Format(".pt2", _write_program, _read_program),
    "onnx": Format(".onnx", _write_onnx, _read_onnx, needs=("onnx", "onnxscript", "onnxruntime")),
}

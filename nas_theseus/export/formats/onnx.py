"""ONNX, which many runtimes read; written by torch's own exporter, checked in ONNX Runtime."""

from __future__ import annotations

import importlib
import math
import re
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from nas_theseus.errors import ExportError
from nas_theseus.export.format import TOLERANCE, Format, Run, metadata, refusal
from nas_theseus.export.int8 import quantise
from nas_theseus.export.member import Member
from nas_theseus.export.traced import blocks_with, trace


@dataclass(frozen=True)
class Onnx:
    """Input ``inputs`` and output ``outputs`` with a free ``batch``; metadata as properties.

    Attributes:
        dtype: of the weights; int8 is calibrated on training inputs (`int8.quantise`).
    """

    dtype: Literal["float32", "int8"] = "float32"

    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "int8"):
            raise ExportError(f"format onnx has dtype float32 or int8, not {self.dtype!r}")

    @property
    def tolerance(self) -> float:
        """Eight bits change outputs by shares that only the quality can judge."""
        return TOLERANCE if self.dtype == "float32" else math.inf

    def write(self, member: Member, inputs: Tensor, path: Path) -> None:
        """Trace and write the network.

        Raises:
            ExportError: a block cannot be traced, or ONNX has no operator for something in it.
        """
        traced = trace(member, inputs, "onnx")
        try:
            program = torch.onnx.export(
                traced,
                (inputs,),
                dynamo=True,
                verbose=False,
                input_names=["inputs"],
                output_names=["outputs"],
                dynamic_shapes=({0: "batch"},),
            )
        except Exception as error:
            operator = _lacking(error)
            if operator is None:
                raise
            blocks = ", ".join(blocks_with(member, inputs, operator)) or "the network"
            raise refusal("onnx", f"onnx has no operator for {operator} of {blocks}") from error
        assert program is not None  # only without dynamo
        program.model.metadata_props.update(metadata(member))
        if self.dtype == "float32":
            program.save(path, external_data=False)
            return
        with tempfile.TemporaryDirectory(prefix="theseus-") as aside:
            exact = Path(aside) / "exact.onnx"
            program.save(exact, external_data=False)
            quantise(exact, path, member)

    def read(self, member: Member, path: Path) -> Run:
        """The model in ONNX Runtime on the CPU."""
        onnxruntime = importlib.import_module("onnxruntime")  # may be missing
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        return lambda inputs: torch.from_numpy(session.run(None, {"inputs": inputs.numpy()})[0])


def _lacking(error: BaseException | None) -> str | None:
    """The operator that the exporter's messages name, through all causes; None if they do not."""
    while error is not None:
        found = re.search(r"No ONNX function found for <OpOverload\(op='([\w.]+)'", str(error))
        if found:
            return found[1]
        error = error.__cause__
    return None


MEMBER: Format = Onnx()

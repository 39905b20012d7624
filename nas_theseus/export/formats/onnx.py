"""ONNX, which many runtimes read; written by torch's own exporter, checked in onnxruntime."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import torch
from torch import Tensor

from nas_theseus.export.format import Format, Run, metadata, refusal
from nas_theseus.export.member import Member
from nas_theseus.export.traced import blocks_with, trace


class Onnx:
    """Input ``inputs`` and output ``outputs`` with a free ``batch``; metadata as properties."""

    suffix = ".onnx"
    needs = ("onnx", "onnxscript", "onnxruntime")

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
        program.save(path, external_data=False)

    def read(self, member: Member, path: Path) -> Run:
        """The model in onnxruntime on the CPU."""
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

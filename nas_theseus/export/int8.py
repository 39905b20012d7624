"""Weights and activations in eight bits, by ONNX Runtime's own quantiser."""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas_theseus.export.member import Member

# Training inputs on which the ranges of activations are measured.
CALIBRATION, _BATCH = 256, 32


def quantise(source: Path, target: Path, member: Member) -> None:
    """Write an ONNX file with int8 weights, one scale for each output channel.

    Networks over feature maps get fixed ranges of activations, from training inputs; in others the
    ranges are computed anew for every input. ONNX Runtime advises so for convolutional networks and
    for transformers.

    Args:
        source: a float32 file with the input ``inputs``.
        target: the file to write; its metadata are those of `source`.
    """
    onnx = importlib.import_module("onnx")
    quantization = importlib.import_module("onnxruntime.quantization")
    shapes = importlib.import_module("onnxruntime.quantization.shape_inference")
    before = logging.root.level
    logging.root.setLevel(logging.ERROR)  # it advises on the root logger what is done here
    try:
        with tempfile.TemporaryDirectory(prefix="theseus-") as aside:
            prepared = str(Path(aside) / "prepared.onnx")
            shapes.quant_pre_process(str(source), prepared)
            given = {"per_channel": True, "weight_type": quantization.QuantType.QInt8}
            if any(one.kind == "map" for one in member.space.guide.boundaries[1:]):
                reader = _reader(quantization.CalibrationDataReader, member)
                kind = quantization.QuantType.QInt8
                quantization.quantize_static(
                    prepared, str(target), reader, activation_type=kind, **given
                )
            else:
                quantization.quantize_dynamic(prepared, str(target), **given)
    finally:
        logging.root.setLevel(before)
    model = onnx.load(target)
    kept = {entry.key: entry.value for entry in onnx.load(source).metadata_props}
    onnx.helper.set_model_props(model, kept)
    onnx.save(model, target)


def _reader(base: Any, member: Member) -> Any:
    """Training inputs as ONNX Runtime's calibration reads them."""
    task = member.space.task
    batches = task.batches("train", _BATCH, seed=0, limit=CALIBRATION)

    def inputs() -> Iterator[dict[str, Any]]:
        for batch in batches:
            yield {"inputs": batch.inputs.numpy()}

    class Reader(base):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = inputs()

        def get_next(self) -> dict[str, Any] | None:
            return next(self._left, None)

    return Reader()

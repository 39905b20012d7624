"""Milliseconds of one forward pass, measured block by block and added up."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from nas_theseus.costs.decoding import median_ms
from nas_theseus.costs.latency import torch_threads
from nas_theseus.errors import CostError
from nas_theseus.guide.chain import example_input
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction

Runtime = Literal["torch", "compile", "onnxruntime"]


@dataclass(frozen=True)
class BlockLatencyMs:
    """Median wall time of one forward pass of a batch of random inputs.

    Unlike `latency_ms`, it is known for every architecture before it is made: each block is
    measured once, and the sum, corrected by the guide as a whole, stands for the network. For
    networks that generate text use `prefill_latency_ms` and `decode_latency_ms`.

    Attributes:
        batch: inputs of one pass.
        runtime: ``torch`` runs blocks as they are on the device of the trials, ``compile`` after
            `torch.compile`, which takes seconds a block and on a CPU a C++ compiler;
            ``onnxruntime`` exports each block and runs it on the CPU, with torch's threads.

    Raises:
        CostError: the batch is below 1, or there is no such runtime.
    """

    batch: int = 1
    runtime: Runtime = "torch"

    name = "block_latency_ms"
    unit = "ms"
    direction: Direction = "minimize"
    additive = True

    def __post_init__(self) -> None:
        if self.batch < 1:
            raise CostError(f"{self.name}: batch must be at least 1, not {self.batch}")
        if self.runtime not in get_args(Runtime):
            raise CostError(
                f"{self.name}: runtime is {' or '.join(map(repr, get_args(Runtime)))}, not "
                f"{self.runtime!r}"
            )

    def check_block(self, module: nn.Module, inlet: Boundary) -> None:
        """Look for the runtime.

        Raises:
            CostError: it is not installed.
        """
        del module, inlet
        if self.runtime == "onnxruntime":
            _onnxruntime(self.name)

    @torch.no_grad()
    def measure_blocks(
        self,
        blocks: Sequence[nn.Module],
        inlet: Boundary,
        device: torch.device,
        threads: int | None,
    ) -> float:
        """Median of the repeats of one pass.

        Raises:
            CostError: the blocks do not run on this batch, cannot be exported, or the runtime does
                not run on this device.
        """
        network = nn.Sequential(*blocks)
        inputs = example_input(network, inlet, self.batch).to(device)
        try:
            if self.runtime == "onnxruntime":
                return median_ms(self._exported(network, inputs, device, threads), device, threads)
            if self.runtime == "compile":
                return _compiled_ms(network, inputs, threads)
            return median_ms(lambda: network(inputs), device, threads)
        except CostError:
            raise
        except Exception as error:  # a block may raise anything
            kinds = ", ".join(dict.fromkeys(type(block).__name__ for block in blocks))
            raise CostError(
                f"{self.name} of {kinds} on {inlet} at a batch of {self.batch} cannot be measured "
                f"with runtime={self.runtime!r}: {type(error).__name__}: {error}. Correct the "
                "block, leave it out, or use another batch or runtime"
            ) from error

    def _exported(
        self, network: nn.Module, inputs: Tensor, device: torch.device, threads: int | None
    ) -> Callable[[], object]:
        """One pass in onnxruntime; blocks without operators pass their inputs on."""
        if device.type != "cpu":
            raise CostError(
                f"{self.name}: onnxruntime is measured on the CPU, and trials run on {device}; "
                "use runtime='torch', or run the search without GPUs"
            )
        onnxruntime = _onnxruntime(self.name)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own
            program = torch.onnx.export(
                network, (inputs,), dynamo=True, verbose=False, input_names=["inputs"]
            )
        assert program is not None  # only without dynamo
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or torch.get_num_threads()
        session = onnxruntime.InferenceSession(
            program.model_proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        given = {each.name: inputs.numpy() for each in session.get_inputs()}
        return lambda: session.run(None, given)


def _compiled_ms(network: nn.Module, inputs: Tensor, threads: int | None) -> float:
    torch.compiler.reset()  # else blocks of one kind share one program for all sizes
    compiled = torch.compile(network, dynamic=False)
    with torch_threads(threads), torch.inference_mode():
        compiled(inputs)  # compiled here, for as many threads as it is measured with
    return median_ms(lambda: compiled(inputs), inputs.device, threads)


def _onnxruntime(name: str) -> Any:
    """The package, and what exporting needs.

    Raises:
        CostError: one of them is not installed.
    """
    try:
        importlib.import_module("onnxscript")
        return importlib.import_module("onnxruntime")
    except ImportError as error:
        raise CostError(
            f"{name}: runtime='onnxruntime' needs a package that is missing ({error}): "
            "pip install 'nas-theseus[export]'"
        ) from error


MEMBER = BlockLatencyMs()

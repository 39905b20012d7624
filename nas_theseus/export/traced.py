"""A found network as a traced program; one that cannot be traced is reported by block and part."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from nas_theseus.errors import ExportError
from nas_theseus.export.format import SPECIAL
from nas_theseus.export.member import Member
from nas_theseus.values.registers import FORMATS


def trace(member: Member, inputs: Tensor, name: str) -> ExportedProgram:
    """Trace the network, with a free batch size and without file paths of this machine.

    Args:
        inputs: examples, shape (B, *inlet).
        name: the format that is written, for the message.

    Raises:
        ExportError: a block cannot be traced; the message has its name, the guide's parts that it
            replaces, the reason and what to do.
    """
    try:
        program = _program(member.network, inputs)
    except Exception as error:  # torch's tracers may raise anything
        raise ExportError(_not_traced(member, inputs, name, error)) from error
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program


def blocks_with(member: Member, inputs: Tensor, operator: str) -> list[str]:
    """Labels of the blocks whose programs call an operator, such as ``prims.bessel_j0``."""
    # Exporters report what an operator was decomposed into: aten.special_bessel_j0 here.
    name = operator.rpartition(".")[2]
    return [
        label
        for label, block, features in _blocks(member, inputs)
        if any(name in str(node.target) for node in _program(block, features).graph.nodes)
    ]


def _program(module: nn.Module, inputs: Tensor) -> ExportedProgram:
    # At least two examples: torch treats a dimension of one as a constant.
    example = inputs if len(inputs) > 1 else inputs.expand(2, *inputs.shape[1:])
    return torch.export.export(module, (example,), dynamic_shapes=({0: Dim("batch")},))


def _blocks(member: Member, inputs: Tensor) -> Iterator[tuple[str, nn.Module, Tensor]]:
    """Each block with its label and its inputs."""
    architecture = member.evaluation.architecture.named(member.space.guide.names)
    for position, block in enumerate(member.network.blocks):
        yield architecture.label(position), block, inputs
        with torch.no_grad():
            inputs = block(inputs)


def _not_traced(member: Member, inputs: Tensor, name: str, error: Exception) -> str:
    found = []
    for label, block, features in _blocks(member, inputs):
        try:
            _program(block, features)
        except Exception as own:  # as above
            found.append(f"block {label} {_reason(own)}")
    reasons = "; ".join(found) or f"as a whole it {_reason(error)}"
    traced = (name, "torch-export", "onnx", *SPECIAL)
    others = ", ".join(other for other in FORMATS if other not in traced)
    return (
        f"the network cannot be written as {name}: {reasons}. Other formats, which trace "
        f"nothing: {others}"
    )


def _reason(error: Exception) -> str:
    """What a block does that cannot be traced, and what to do."""
    said = str(error).strip()
    if "Constraints violated" in said or "specialized" in said:
        return (
            "works for one batch size only: its forward uses the number of examples as a plain "
            "number, as in a loop over x.shape[0] or in a reshape to a fixed size. Use operations "
            "on the whole batch, such as x.flatten(1) or x.reshape(-1, …)"
        )
    if "data-dependent" in said:
        return (
            "branches on the values of a tensor, as in `if x.sum() > 0`. Use torch.where(…) in its "
            "forward instead"
        )
    return (
        f"cannot be traced by torch.export ({type(error).__name__}: {said.partition(chr(10))[0]}). "
        "Write its forward with torch operations on tensors alone"
    )

"""A network of any layers as a folder with a modelling file of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from nas_theseus.errors import ExportError
from nas_theseus.export.huggingface.description import Describer, Description, tied
from nas_theseus.export.huggingface.program import write_program
from nas_theseus.export.huggingface.working import Working, goes_on, is_pointwise, working_blocks
from nas_theseus.export.member import Member
from nas_theseus.guide.weights import plain_state

MODELING_FILE = "modeling_theseus.py"
_MODELING = "nas_theseus.export.huggingface.modeling_theseus"
_HEADER = """A language model of nas-theseus: config.json lists its modules, this file has them.

`build` makes what config.json describes. The modules over tokens are as nas-theseus has them; the
model at the end joins them, and remembers what they need to go on token by token.
"""
# Keys of the guide's configuration that other tools read, or that generation needs.
_KEPT = (
    "hidden_size",
    "max_position_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "initializer_range",
)


def write_coded(member: Member, folder: Path, dtype: torch.dtype) -> bool:
    """Write configuration, weights and modelling file of a network.

    Returns:
        Whether it can go on token by token.

    Raises:
        ExportError: a block cannot be described or copied, or the network takes no shorter texts.
    """
    describer = Describer()
    working = working_blocks(member)
    described = [_described(block, member, describer) for block in working]
    blocks, lengths = [block.module for block in working], _lengths(member, working)
    # Otherwise the last block is a layer, or the only block.
    if len(blocks) == 1 or not is_pointwise(working[-1], member):
        blocks.append(nn.Identity())
        described.append(describer.module(blocks[-1]))
    config = {
        **_inherited(member),
        "architectures": ["TheseusForCausalLM"],
        "auto_map": {
            "AutoConfig": "modeling_theseus.TheseusConfig",
            "AutoModelForCausalLM": "modeling_theseus.TheseusForCausalLM",
        },
        "model_type": "theseus",
        "dtype": str(dtype).removeprefix("torch."),
        "vocab_size": member.space.task.outputs.width,
        "num_hidden_layers": len(blocks) - 2,
        "tie_word_embeddings": tied(blocks),
        **lengths,
        "embed": described[0],
        "layers": described[1:-1],
        "head": described[-1],
        "tables": describer.tables,
    }
    (folder / "config.json").write_text(_readable(config), encoding="utf-8")
    (folder / MODELING_FILE).write_text(_program(describer.kinds), encoding="utf-8")
    safetensors.torch.save_file(
        _weights(blocks, dtype), folder / "model.safetensors", {"format": "pt"}
    )
    return bool(lengths["use_cache"])


def _described(block: Working, member: Member, describer: Describer) -> Description:
    """The description of a block, whose errors name it.

    Raises:
        ExportError: it cannot be described.
    """
    choice = member.network.architecture.choices[block.place]
    arguments = {"inlet": block.inlet, "outlet": block.outlet, **choice.kwargs}
    try:
        return describer.block(block.module, member.space.families[choice.block], arguments)
    except ExportError as error:
        raise ExportError(f"block {member.network.label(block.place)}: {error}") from error


def _lengths(member: Member, working: list[Working]) -> dict[str, Any]:
    """What texts the model takes, and whether it can go on token by token.

    Raises:
        ExportError: outputs change with later tokens.
    """
    context = member.space.task.inlet.shape[0]
    positions = getattr(working[0].module, "positions", None)
    longest = positions.num_embeddings if isinstance(positions, nn.Embedding) else None
    if all(goes_on(block, member) for block in working):
        return {"use_cache": True, "longest": longest, "padded": False}
    ids = next(member.space.task.batches("validation", 1, limit=1)).inputs
    shorter = ids[:, : max(1, context // 2)]
    run = nn.Sequential(*(block.module for block in working))
    with torch.no_grad():
        whole = run(ids)[:, : shorter.shape[1]]
        if _agree(run, shorter, whole):
            longer = torch.cat([ids, ids[:, :1]], dim=1)
            if not _agree(lambda given: run(given)[:, : shorter.shape[1]], longer, whole):
                longest = context
            return {"use_cache": False, "longest": longest, "padded": False}
        filled = torch.zeros_like(ids)
        filled[:, : shorter.shape[1]] = shorter
        if _agree(lambda given: run(given)[:, : shorter.shape[1]], filled, whole):
            return {"use_cache": False, "longest": context, "padded": True}
    raise ExportError(
        "the network's outputs change with later tokens, as those of encoders do; a model that "
        "generates text reads earlier tokens only"
    )


def _agree(run: Callable[[Tensor], Tensor], inputs: Tensor, expected: Tensor) -> bool:
    try:
        found = run(inputs)
    except Exception:  # a block that takes one number of tokens only
        return False
    return found.shape == expected.shape and torch.allclose(found, expected, rtol=1e-3, atol=1e-4)


def _weights(blocks: list[nn.Module], dtype: torch.dtype) -> dict[str, Tensor]:
    """Weights by their names in the modelling file's model."""
    names = ["embed", *(f"layers.{index}" for index in range(len(blocks) - 2)), "head"]
    found = {
        f"{name}.{key}": tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, block in zip(names, blocks, strict=True)
        for key, tensor in plain_state(block).items()
    }
    if tied(blocks):
        del found["head.output.weight"]
    return found


def _inherited(member: Member) -> dict[str, Any]:
    pretrained = member.space.guide.pretrained
    known = {} if pretrained is None else pretrained.config.to_dict()
    width = member.space.guide.boundaries[1].width
    found = {name: known[name] for name in _KEPT if known.get(name) is not None}
    return {"hidden_size": width, **found}


def _readable(config: Mapping[str, Any]) -> str:
    """JSON with one line for each layer."""
    lines = []
    for key, value in config.items():
        text = json.dumps(value)
        if key in ("layers", "tables"):
            text = ",\n".join(f"    {json.dumps(one)}" for one in value)
            text = f"[\n{text}\n  ]"
        lines.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _program(kinds: Mapping[str, Callable[..., Any]]) -> str:
    """The modelling file with the code of these kinds."""
    own = {name: kind for name, kind in kinds.items() if not name.startswith("nn.")}
    shown = ",\n".join(f'    "{name}": {name}' for name in kinds)
    text = f"# What config.json can name.\nKINDS: dict[str, Any] = {{\n{shown},\n}}"
    needed = [(kind.__module__, name) for name, kind in own.items()]
    needed += [(_MODELING, name) for name in ("TheseusConfig", "TheseusForCausalLM")]
    return write_program(needed, _HEADER, {(_MODELING, "KINDS"): text}, _MODELING)

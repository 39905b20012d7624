"""Guides of Hugging Face transformers: a model, a folder or a GGUF file, cut at its sublayers."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from nas_theseus.errors import CutError, GuideError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import refuse_other_outputs
from nas_theseus.guide.family import Family
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.registers import FAMILIES


@dataclass(frozen=True)
class Pretrained:
    """The model that a guide's parts are from.

    Attributes:
        config: its configuration, of transformers.
        source: the folder or file that it was read from; None for a model in memory.
    """

    config: Any
    source: Path | None


Granularity = Literal["sublayer", "layer"]


def huggingface_guide(
    model: nn.Module | str | Path,
    context: int,
    *,
    granularity: Granularity = "sublayer",
    trust_code: bool = False,
) -> Guide:
    """The guide of a Hugging Face language model, cut into its sublayers or layers.

    Parts are named embed, attention0, mlp0, attention1, … and head; with whole layers embed,
    layer0, layer1, … and head. They share the model's parameters. Layers whose attention and MLP
    read the same input (GPT-NeoX, Phi) are one part each with either granularity.

    Args:
        model: a model of transformers, a folder with ``config.json`` and safetensors, or a GGUF
            file, whose weights are dequantised.
        context: number of tokens of one input, T; the guide maps ids (T,) to logits (T, V).
        trust_code: consent to run Python files in the model's folder.

    Raises:
        CutError: the family is unknown, the context is longer than the model's positions, or the
            chain computes other outputs than the model.
        GuideError: the folder cannot be read, its tensors are not the model's, it holds code of
            its own, or the weights are quantised.
    """
    if granularity not in ("sublayer", "layer"):
        raise CutError(f"granularity is 'sublayer' or 'layer', not {granularity!r}")
    network: Any = model
    if isinstance(model, str | Path):
        network = load_language_model(model, trust_code=trust_code)
    config: Any = getattr(network, "config", None)
    family = family_of(getattr(config, "model_type", None))
    _refuse_untrainable(network)
    longest = getattr(config, "max_position_embeddings", None)
    if context < 1 or (longest is not None and context > longest):
        raise CutError(
            f"a context of {context} tokens does not fit; this model has 1 to {longest} positions"
        )
    network.eval()
    parts: list[tuple[str, nn.Module]] = [("embed", family.embedding(network))]
    for index, layer in enumerate(family.layers(network)):
        if granularity == "layer" or layer.parallel:
            parts.append((f"layer{index}", layer))
        else:
            parts += [(f"attention{index}", layer.attention), (f"mlp{index}", layer.mlp)]
    parts.append(("head", family.head(network)))
    guide = Guide(parts, Boundary((context,), integer=True))
    source = Path(model).expanduser().absolute() if isinstance(model, str | Path) else None
    guide.pretrained = Pretrained(copy.deepcopy(config), source)
    generator = torch.Generator().manual_seed(0)
    length = min(context, 64)
    ids = torch.randint(int(config.vocab_size), (2, length), generator=generator)
    refuse_other_outputs(guide, network, ids.to(next(network.parameters()).device))
    return guide


def family_of(model_type: str | None) -> Family:
    """The family of a configuration's `model_type`.

    Raises:
        CutError: no family has it; the message shows how a new one is described.
    """
    for name in FAMILIES:
        family: Family = FAMILIES[name]
        if model_type in family.model_types:
            return family
    known = sorted(kind for name in FAMILIES for kind in FAMILIES[name].model_types)
    raise CutError(
        f"models of the type {model_type!r} cannot be cut yet; known are {', '.join(known)}. A "
        "model with the module names of Llama needs a dozen lines in your space file:\n"
        "    from nas_theseus.guide.family import Family, decoder_layers, rms_norm_of\n"
        "    from nas_theseus.guide.sublayers import Embedding, Head\n"
        "    from nas_theseus.values.registers import FAMILIES\n"
        "    FAMILIES.add('mine', Family(\n"
        f"        model_types=({model_type!r},),\n"
        "        embedding=lambda model: Embedding(model.model.embed_tokens),\n"
        "        layers=decoder_layers,\n"
        "        head=lambda model: Head(model.lm_head, rms_norm_of(model.model.norm)),\n"
        "    ))\n"
        "or build the chain by hand: Guide([(name, module), …], Boundary((T,), integer=True))"
    )


def load_language_model(source: str | Path, *, trust_code: bool = False) -> Any:
    """A language model of transformers in float32, from a folder or a GGUF file.

    Raises:
        GuideError: as for `huggingface_guide`.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise GuideError(
            f"{path} does not exist; give a folder with config.json and safetensors, or a GGUF file"
        )
    transformers = _transformers()
    options: dict[str, Any] = {"dtype": torch.float32, "output_loading_info": True}
    if path.is_file():
        if path.suffix != ".gguf":
            raise GuideError(f"{path} is a file; give its folder, or a GGUF file")
        folder, options = path.parent, {**options, "gguf_file": path.name}
    else:
        folder = path
        _refuse_remote_code(path, trust_code)
    try:
        model, told = transformers.AutoModelForCausalLM.from_pretrained(
            str(folder), trust_remote_code=trust_code, local_files_only=True, **options
        )
    except Exception as error:  # transformers raises many kinds for files that it cannot read
        said = str(error).strip().partition("\n")[0]
        raise GuideError(f"{path} cannot be read: {type(error).__name__}: {said}") from error
    _refuse_other_tensors(path, told)
    if path.is_file():  # dequantised, which its configuration does not say
        del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
    return model


def _transformers() -> Any:
    try:
        return importlib.import_module("transformers")
    except ImportError as error:
        raise GuideError(
            "guides of Hugging Face models need the package transformers: "
            "pip install 'nas-theseus[guides]'"
        ) from error


def _refuse_remote_code(folder: Path, trust_code: bool) -> None:
    """Refuse a folder whose configuration names Python files, unless they are trusted."""
    transformers = _transformers()
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(str(folder))
    except Exception as error:
        raise GuideError(f"{folder} has no config.json that can be read: {error}") from error
    if config.get("auto_map") and not trust_code:
        raise GuideError(
            f"{folder} holds Python code of its own for its model; read it, then give "
            "trust_code=True (--trust-code) to run it"
        )
    if config.get("quantization_config") is not None:
        raise GuideError(
            f"{folder} is quantised, and quantised weights cannot be trained; use the checkpoint "
            "before quantisation, or dequantise it (model.dequantize(), then save_pretrained)"
        )


def _refuse_other_tensors(path: Path, told: Any) -> None:
    """Refuse a checkpoint whose tensors are not those of the model."""
    for kind, what in (
        ("missing_keys", "lacks tensors of the model"),
        ("unexpected_keys", "has tensors that the model does not have"),
        ("mismatched_keys", "has tensors of other shapes than the model"),
    ):
        names = sorted(map(str, told.get(kind) or ()))
        if names:
            listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise GuideError(
                f"{path} {what}: {listed}. Is config.json that of these weights? Use the folder "
                "as save_pretrained wrote it"
            )


def _refuse_untrainable(model: nn.Module) -> None:
    """Refuse models whose weights are quantised or spread over devices."""
    if getattr(model, "is_quantized", False):
        raise GuideError(
            "the model is quantised, and quantised weights cannot be trained; use the checkpoint "
            "before quantisation, or model.dequantize()"
        )
    devices = {str(p.device) for p in model.parameters()}
    if len(devices) > 1 or "meta" in devices:
        raise GuideError(
            f"the model is spread over {', '.join(sorted(devices))}; load it on one device, "
            "without device_map"
        )

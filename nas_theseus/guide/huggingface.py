"""Guides of Hugging Face transformers: a model, a folder or a GGUF file, cut at its sublayers."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas_theseus.errors import CutError, GuideError
from nas_theseus.guide.chain import Guide, example_input
from nas_theseus.guide.cut import refuse_other_outputs
from nas_theseus.guide.model_family import Family
from nas_theseus.guide.sublayers import Layer
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
Parts = list[tuple[str, nn.Module]]

_OLDEST = 5
# Longest text for which a chain's outputs are compared with the model's.
_COMPARED = 64


def huggingface_guide(
    model: nn.Module | str | Path,
    context: int | None = None,
    *,
    granularity: Granularity = "sublayer",
    trust_code: bool = False,
) -> Guide:
    """The guide of a Hugging Face transformer, cut into its sublayers or layers.

    Parts are named embed, attention0, mlp0, attention1, … and head; with whole layers embed,
    layer0, layer1, … and head. They share the model's parameters, or have copies of those that
    several parts share or that are stored in another form. Layers whose attention and MLP read the
    same input (GPT-NeoX, Phi) are one part each with either granularity. Dropout is left out.

    Args:
        model: a model of transformers with its output head, a folder with ``config.json`` and
            safetensors, or a GGUF file, whose weights are dequantised.
        context: number of tokens of one input, T; the guide maps ids (T,) to logits (T, V), those
            of classifiers to (V,). Models of images have none: they map pixels (C, H, W).
        trust_code: consent to run Python files in the model's folder.

    Raises:
        CutError: the family is unknown, the context is longer than the model's positions, or the
            chain computes other outputs than the model.
        GuideError: the folder cannot be read, its tensors are not the model's, it holds code of
            its own, or the weights are quantised.
    """
    network: Any = model
    if isinstance(model, str | Path):
        network = load_language_model(model, trust_code=trust_code)
    family = family_of(_model_type(network))
    _refuse_untrainable(network)
    inlet = _inlet(family, network.config, context)
    network.eval()
    guide = Guide(cut_model(network, granularity), inlet)
    source = Path(model).expanduser().absolute() if isinstance(model, str | Path) else None
    guide.pretrained = Pretrained(copy.deepcopy(network.config), source)
    refuse_other_outputs(guide, network, _examples(guide, inlet, network.config))
    return guide


def cut_model(model: nn.Module, granularity: Granularity = "sublayer") -> Parts:
    """The parts of a Hugging Face model, by the names that `huggingface_guide` gives them.

    Raises:
        CutError: the family is unknown, or the model has other modules than its family.
    """
    if granularity not in ("sublayer", "layer"):
        raise CutError(f"granularity is 'sublayer' or 'layer', not {granularity!r}")
    embedding, layers, head = _pieces(model, family_of(_model_type(model)))
    parts: Parts = [("embed", embedding)]
    for index, layer in enumerate(layers):
        if granularity == "layer" or layer.parallel:
            parts.append((f"layer{index}", layer))
        else:
            parts += [(f"attention{index}", layer.attention), (f"mlp{index}", layer.mlp)]
    return [*parts, ("head", head)]


def fill(model: nn.Module, parts: Iterable[nn.Module]) -> None:
    """Set all parameters of a Hugging Face model to those of parts, in place.

    With this, networks whose parts have the form of a family's are saved as plain checkpoints: make
    a model from a configuration with their widths and number of layers, fill it and save it.

    Args:
        model: a model of a known family.
        parts: embedding, sublayers or layers, and head, as `cut_model` has them.

    Raises:
        CutError: as for `cut_model`.
        GuideError: there are more or fewer parts, their tensors are others, or they differ where
            the model's are tied.
    """
    family = family_of(_model_type(model))
    embedding, layers, head = _pieces(model, family)
    own, given = _sublayers([embedding, *layers, head]), _sublayers(parts)
    if len(own) != len(given):
        raise GuideError(
            f"{type(model).__name__} has {len(own)} parts, embedding and head included, but "
            f"{len(given)} were given; set num_hidden_layers of its configuration accordingly"
        )
    for index, (target, source) in enumerate(zip(own, given, strict=True)):
        _refuse_other_state(index, target.state_dict(), source.state_dict())
        target.load_state_dict(source.state_dict())
    for index, (target, source) in enumerate(zip(own, given, strict=True)):
        found = source.state_dict()
        for name, tensor in target.state_dict().items():
            if not torch.equal(tensor, found[name].to(tensor)):
                raise GuideError(
                    f"{name} of part {index} is tied to another tensor of {type(model).__name__}, "
                    "but has other values; set tie_word_embeddings=False in the configuration"
                )
    if family.write is not None:
        family.write(model, embedding, layers, head)


def _sublayers(parts: Iterable[nn.Module]) -> list[nn.Module]:
    """Parts with layers taken apart, unless attention and MLP read the same input."""
    found: list[nn.Module] = []
    for part in parts:
        apart = isinstance(part, Layer) and not part.parallel
        found += [part.attention, part.mlp] if apart else [part]  # type: ignore[list-item]
    return found


def _refuse_other_state(index: int, own: dict[str, Tensor], given: dict[str, Tensor]) -> None:
    for name in sorted({*own, *given}):
        shapes = [tuple(each[name].shape) if name in each else None for each in (own, given)]
        if shapes[0] != shapes[1]:
            raise GuideError(
                f"part {index} does not fit the model: {name} has the shape {shapes[1]}, and "
                f"{shapes[0]} in the model (None: there is none)"
            )


def _pieces(model: Any, family: Family) -> tuple[nn.Module, list[Layer], nn.Module]:
    """Embedding, layers and head of a model."""
    try:
        return family.embedding(model), family.layers(model), family.head(model)
    except AttributeError as error:
        version = getattr(transformers_package(), "__version__", "")
        raise CutError(
            f"{type(model).__name__} cannot be cut: {error}. A guide is a model with its output "
            "head, such as those of AutoModelForCausalLM. If this is one, transformers "
            f"{version} names its modules in another way: families are known as of 5.23"
        ) from error


def _inlet(family: Family, config: Any, context: int | None) -> Boundary:
    if family.inlet is not None:
        if context is not None:
            raise CutError(
                f"models of the type {config.model_type!r} read images, which have no context; "
                "leave context out"
            )
        return family.inlet(config)
    longest = getattr(config, "max_position_embeddings", None)
    if context is None or context < 1 or (longest is not None and context > longest):
        most = "any number of" if longest is None else f"1 to {longest}"
        raise CutError(
            f"a context of {context} tokens does not fit; this model has {most} positions"
        )
    return Boundary((context,), integer=True)


def _examples(guide: Guide, inlet: Boundary, config: Any) -> Tensor:
    """Inputs for which guide and model are compared."""
    given = example_input(guide, inlet, batch=2)
    if not inlet.integer:
        return given
    generator = torch.Generator().manual_seed(0)
    length = min(inlet.shape[0], _COMPARED)
    ids = torch.randint(int(config.vocab_size), (2, length), generator=generator)
    return ids.to(given.device)


def _model_type(model: Any) -> str | None:
    return getattr(getattr(model, "config", None), "model_type", None)


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
        "    from nas_theseus.guide.model_family import Family, decoder_layers, rms_norm_of\n"
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
    """A model of transformers in float32, from a folder or a GGUF file.

    Folders are loaded as the class that config.json names under ``architectures``, so that
    encoders get their own head; GGUF files as language models.

    Raises:
        CutError: the family is unknown.
        GuideError: as for `huggingface_guide`.
    """
    path = Path(source).expanduser()
    if not path.exists():
        raise GuideError(
            f"{path} does not exist; give a folder with config.json and safetensors, or a GGUF file"
        )
    transformers = transformers_package()
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,  # they are refused below, by their names
    }
    kind: Any = transformers.AutoModelForCausalLM
    if path.is_file():
        if path.suffix != ".gguf":
            raise GuideError(f"{path} is a file; give its folder, or a GGUF file")
        folder, options = path.parent, {**options, "gguf_file": path.name}
    else:
        folder, kind = path, _class_in(path, trust_code)
    if trust_code:
        options["trust_remote_code"] = True
    try:
        model, told = kind.from_pretrained(str(folder), local_files_only=True, **options)
    except Exception as error:  # transformers raises many kinds for files that it cannot read
        said = " ".join(str(error).split())[:300]
        raise GuideError(f"{path} cannot be read: {type(error).__name__}: {said}") from error
    refuse_other_tensors(path, told)
    if path.is_file():  # dequantised, which its configuration does not say
        del model.config.quantization_config
        model.is_quantized, model.hf_quantizer = False, None
    return model


def transformers_package() -> Any:
    """The package transformers.

    Raises:
        GuideError: it is missing or too old.
    """
    try:
        found = importlib.import_module("transformers")
    except ImportError as error:
        raise GuideError(
            "guides of Hugging Face models need the package transformers: "
            "pip install 'nas-theseus[guides]'"
        ) from error
    if int(found.__version__.partition(".")[0]) < _OLDEST:
        raise GuideError(
            f"transformers {found.__version__} is too old for guides, which need {_OLDEST}.0 or "
            "later: pip install --upgrade 'nas-theseus[guides]'"
        )
    return found


def _class_in(folder: Path, trust_code: bool) -> Any:
    """The class of the model in a folder, if it is one that can be trained and trusted."""
    transformers = transformers_package()
    if not (folder / "config.json").is_file():
        raise GuideError(f"{folder} has no config.json; give a folder as save_pretrained writes it")
    try:
        config, _ = transformers.PreTrainedConfig.get_config_dict(
            str(folder), local_files_only=True
        )
    except Exception as error:
        said = " ".join(str(error).split())[:300]
        raise GuideError(f"config.json in {folder} cannot be read: {said}") from error
    names = config.get("architectures") or [] if isinstance(config, dict) else None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise GuideError(
            f"config.json in {folder} is no model's: architectures must be a list of names; save "
            "the model again with save_pretrained"
        )
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
    family_of(str(config.get("model_type")))
    for name in names:
        found = getattr(transformers, name, None)
        if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
            return found
    if names and not config.get("auto_map"):
        raise GuideError(
            f"{folder} holds a {names[0]}, which transformers {transformers.__version__} does not "
            "have; install a release that has it, or correct architectures in config.json"
        )
    return transformers.AutoModelForCausalLM


def refuse_other_tensors(path: Path, told: Any) -> None:
    """Refuse a checkpoint whose tensors are not those of the model."""
    for kind, what in (
        ("missing_keys", "lacks tensors of the model"),
        ("unexpected_keys", "has tensors that the model does not have"),
        ("mismatched_keys", "has tensors of other shapes than the model"),
    ):
        names = sorted(
            str(one) if isinstance(one, str) else f"{one[0]} {tuple(one[1])}"
            for one in told.get(kind) or ()
        )
        if names:
            listed = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
            raise GuideError(
                f"{path} {what}: {listed}. Is config.json that of these weights? Use the folder "
                "as save_pretrained wrote it; if you know that it is right, load the model "
                "yourself and give it instead of the folder"
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

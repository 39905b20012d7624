"""Guides of pretrained vision networks: loaded by name, cut at their blocks."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from torch import nn

from nas_theseus.errors import CutError, GuideError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.cut import cut
from nas_theseus.guide.repeated_blocks import channels_first, repeated_blocks
from nas_theseus.guide.vision_source import DEFAULT, At, Loaded
from nas_theseus.guide.weights import is_rebuilding, load_given_weights
from nas_theseus.tasks.preprocessing import Preprocessing
from nas_theseus.values.registers import SOURCES

_FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


def vision_guide(
    model: str | nn.Module,
    *,
    at: At = "blocks",
    weights: str | Path | None = DEFAULT,
    size: int | None = None,
    preprocessing: Preprocessing | None = None,
) -> Guide:
    """The guide of a vision network, cut at the blocks that it repeats.

    For example ``vision_guide("torchvision:resnet50")``, ``vision_guide("timm:convnext_tiny",
    at="stages")``, ``vision_guide("hf:my_folder")``. The chain's outputs are compared with the
    network's. Tasks take over ``guide.preprocessing``: ``image_folder("photos", guide=guide)``.

    Args:
        model: ``torchvision:NAME``, ``timm:NAME`` or ``hf:FOLDER``; or a module that maps pictures
            to logits.
        at: ``blocks`` cuts after every block, ``stages`` where the features' shape changes,
            ``sublayers`` cuts a ViT of a Hugging Face folder after each attention and each MLP. See
            `repeated_blocks` for how blocks are found.
        weights: ``default`` for those that the source recommends, from its own cache or from the
            network; the name of others, such as ``IMAGENET1K_V1``; a safetensors file, or a
            checkpoint that ``torch.load(weights_only=True)`` reads; None for random weights. A
            module keeps its own by default.
        size: height and width of an input. Default: what the weights were trained for.
        preprocessing: what the network expects of pictures. Default: what the weights' own
            configuration says.

    Raises:
        GuideError: source, network or weights are unknown or cannot be loaded, or the preprocessing
            is not known.
        CutError: the network cannot be cut so, or does not take inputs of the size.
    """
    if at not in get_args(At):
        raise CutError(f"at is {', '.join(map(repr, get_args(At)))}, not {at!r}")
    file = _file(weights)
    named = None if file is not None or is_rebuilding() else weights
    found = _loaded(model, None if named is None else str(named), size)
    expected = preprocessing or found.preprocessing
    if expected is None:
        raise GuideError(
            f"what {_called(model)} expects of pictures is not known; give "
            "preprocessing=Preprocessing(size=…, resize=…, mean=…, std=…) of "
            "nas_theseus.tasks.preprocessing"
        )
    if preprocessing is not None and size is not None:
        expected = preprocessing.at_size(size)
    load_given_weights(found.inner or found.model, file)
    guide = _cut(found, at, expected)
    guide.preprocessing = expected
    guide.weights_from = found.weights if file is None else file.name
    return guide


def _file(weights: str | Path | None) -> Path | None:
    """The file that weights are in; None if they are a name."""
    if isinstance(weights, Path):
        return weights
    if weights is not None and weights.lower().endswith(_FILES):
        return Path(weights).expanduser()
    return None


def _loaded(model: str | nn.Module, weights: str | None, size: int | None) -> Loaded:
    if isinstance(model, nn.Module):
        if weights not in (None, DEFAULT):
            raise GuideError(
                f"weights {weights!r} are a name, which a {type(model).__name__} does not know; "
                "give the path of a file, or load them yourself"
            )
        return Loaded(model, None, None)
    source, _, name = str(model).partition(":")
    if source not in SOURCES or not name:
        raise GuideError(
            f"{model!r} is no network: use "
            + " or ".join(f"'{one}:{'FOLDER' if one == 'hf' else 'NAME'}'" for one in SOURCES)
            + ", or a torch module"
        )
    found: Loaded = SOURCES[source](name, weights, size)
    return found


def _cut(found: Loaded, at: At, expected: Preprocessing) -> Guide:
    if found.cut is not None:
        guide = found.cut(at)
        if guide.boundaries[0].shape != expected.shape:
            raise CutError(
                f"the network takes inputs {guide.boundaries[0]}, but preprocessing gives "
                f"{expected.shape}; leave size= out, or use timm's network of this kind, which is "
                "interpolated"
            )
        return guide
    if at == "sublayers":
        raise CutError(
            "at='sublayers' is for ViTs of Hugging Face folders ('hf:FOLDER'); use at='blocks' here"
        )
    names = repeated_blocks(found.model, expected.shape, at)
    return channels_first(cut(found.model, names, expected.shape))


def _called(model: str | nn.Module) -> str:
    return model if isinstance(model, str) else f"the module {type(model).__name__}"

"""A folder that ``AutoModelForCausalLM.from_pretrained`` of Hugging Face transformers loads."""

from __future__ import annotations

import copy
import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from nas_theseus.blocks.causality import reads_ahead
from nas_theseus.errors import ExportError
from nas_theseus.export.format import Format, Run, refusal
from nas_theseus.export.huggingface.card import model_card
from nas_theseus.export.huggingface.coded import write_coded
from nas_theseus.export.huggingface.loading import load_folder, quiet, refuse_other_text
from nas_theseus.export.huggingface.plain import plain_model
from nas_theseus.export.huggingface.tokenizer import write_tokenizer
from nas_theseus.export.huggingface.working import working_blocks
from nas_theseus.export.member import Member
from nas_theseus.guide.huggingface import Pretrained

# Of the largest logit: weights in bfloat16 keep 8 bits.
_ROUNDED, _EXACT = 0.05, 1e-4


@dataclass(frozen=True)
class HuggingFace:
    """A model of the guide's own kind if only sizes differ, else one with a modelling file.

    Attributes:
        dtype: of the weights.
        tokenizer: folder of the tokenizer. Default: the guide's folder, or the task's tokenizer.
    """

    dtype: Literal["float32", "bfloat16"] = "float32"
    tokenizer: Path | None = None

    suffix = "-huggingface"
    needs = ("transformers",)

    def __post_init__(self) -> None:
        if self.dtype not in ("float32", "bfloat16"):
            raise ExportError(f"dtype is float32 or bfloat16, not {self.dtype!r}")

    @property
    def tolerance(self) -> float:
        """Largest difference of two logits, as a share of the largest."""
        return _EXACT if self.dtype == "float32" else _ROUNDED

    def write(self, member: Member, inputs: Tensor, path: Path) -> None:
        """Write configuration, weights, tokenizer and model card.

        Raises:
            ExportError: the network is no language model, or a block cannot be written.
        """
        _refuse_others(member)
        path.mkdir(parents=True)
        tokenizer = write_tokenizer(member, path, self.tokenizer)
        dtype: torch.dtype = getattr(torch, self.dtype)
        pretrained = member.space.guide.pretrained
        model = None
        if pretrained is not None:
            model = plain_model([block.module for block in working_blocks(member)], pretrained)
        generation = _generation(pretrained)
        if model is not None:
            model.generation_config = generation
            with quiet():
                model.to(dtype).save_pretrained(path)
        else:
            generation.use_cache = write_coded(member, path, dtype)
            generation.save_pretrained(path)
        card = model_card(
            member,
            coded=model is None,
            tokenizer=tokenizer,
            dtype=self.dtype,
            cached=bool(generation.use_cache),
        )
        (path / "README.md").write_text(card, encoding="utf-8")

    def read(self, member: Member, path: Path) -> Run:
        """The loaded model, after its text was compared with and without a cache.

        Raises:
            ExportError: the text differs, or the logits differ from those of the network with
                weights rounded as in the folder.
        """
        model = load_folder(path)
        inputs = next(member.space.task.batches("validation", 2, limit=2)).inputs
        if model.generation_config.use_cache:
            refuse_other_text(model, inputs)
        run = _run(model)
        if self.dtype != "float32":
            _refuse_difference(run, _rounded(member.network), inputs)
        return run


def _refuse_others(member: Member) -> None:
    """Refuse networks that are no language models."""
    task, name = member.space.task, "huggingface"
    if task.inlet.kind != "ids" or task.outputs.kind != "tokens":
        raise refusal(
            name,
            f"it maps {task.inlet} to {task.outputs}, and this format is for language models, "
            "which map token ids to logits for each token",
        )
    if reads_ahead(member.network, task.inlet, task.outputs.width):
        raise refusal(
            name,
            "its outputs change with later tokens, as those of encoders do; a model that generates "
            "text reads earlier tokens only",
        )


def _generation(pretrained: Pretrained | None) -> Any:
    """How text is generated: as the guide's folder says, or else its configuration."""
    kind = importlib.import_module("transformers").GenerationConfig
    if pretrained is None:
        found = kind()
    elif pretrained.source and (pretrained.source / "generation_config.json").is_file():
        found = kind.from_pretrained(str(pretrained.source))
    else:
        found = kind.from_model_config(pretrained.config)
    found.use_cache = True
    return found


def _run(model: Any) -> Run:
    def logits(inputs: Tensor) -> Tensor:
        found: Tensor = model(inputs, use_cache=False).logits
        return found

    return logits


def _rounded(network: nn.Module) -> nn.Module:
    """A network with the weights that bfloat16 can hold."""
    found = copy.deepcopy(network)
    state = {
        name: tensor.to(torch.bfloat16).to(tensor.dtype) if tensor.is_floating_point() else tensor
        for name, tensor in found.state_dict().items()
    }
    found.load_state_dict(state)
    return found


@torch.no_grad()
def _refuse_difference(run: Run, network: nn.Module, inputs: Tensor) -> None:
    found, expected = run(inputs), network(inputs)
    difference = float((found - expected).abs().max() / expected.abs().max())
    if not difference <= _EXACT:
        raise ExportError(
            f"the folder's logits differ by {difference:.3g} of the largest from those of the "
            f"network with rounded weights; at most {_EXACT:g} is allowed"
        )


MEMBER: Format = HuggingFace()

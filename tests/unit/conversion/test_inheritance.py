"""What a block takes over of a transformer layer: norms, and the hidden units that matter."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.vision_transformer import EncoderBlock

from nas_theseus.blocks.mlp import TokenMixer
from nas_theseus.blocks.recurrent import MinimalRNNBlock
from nas_theseus.blocks.sequence import ChannelMLPBlock
from nas_theseus.conversion.inheritance import inherit
from nas_theseus.guide.weights import plain_state
from nas_theseus.values.architecture import Boundary

TOKENS = Boundary((6, 8))


class Plain(nn.Module):
    """A layer of one's own: a mean over the tokens, then an MLP of 16 units."""

    def __init__(self, activation: nn.Module | None = None) -> None:
        super().__init__()
        # Registered in another order than they run.
        self.contract, self.expand = nn.Linear(16, 8), nn.Linear(8, 16)
        self.before, self.after = nn.LayerNorm(8), nn.LayerNorm(8)
        self.activation = activation or nn.GELU("tanh")

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.before(x).mean(1, keepdim=True)
        out: Tensor = x + self.contract(self.activation(self.expand(self.after(x))))
        return out


def randomised(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


def inputs() -> Tensor:
    return torch.randn(5, *TOKENS.shape, generator=torch.Generator().manual_seed(2))


def mlp(block: nn.Module) -> tuple[nn.LayerNorm, nn.Linear]:
    assert isinstance(block.mlp, nn.Sequential)
    norm, up, _ = block.mlp
    assert isinstance(norm, nn.LayerNorm) and isinstance(up, nn.Linear)
    return norm, up


def test_a_block_with_room_for_all_units_computes_the_guide_s_hidden_layer() -> None:
    part = randomised(EncoderBlock(2, 8, 16, 0.0, 0.0))
    block = TokenMixer(TOKENS, TOKENS, hidden=16)
    assert inherit(block, [part], inputs())
    x = inputs()
    hidden = part.mlp[1](part.mlp[0](part.ln_2(x)))  # type: ignore[index,operator]
    found = block.mlp(x)
    torch.testing.assert_close(found.sort(dim=-1)[0], hidden.sort(dim=-1)[0])
    torch.testing.assert_close(block.norm(x), part.ln_1(x))  # type: ignore[operator]


def test_the_units_that_matter_are_taken_and_the_guide_stays_as_it_is() -> None:
    part = randomised(Plain())
    assert isinstance(part, Plain)
    used = [1, 4, 5, 14]
    with torch.no_grad():
        for unit in set(range(16)) - set(used):
            part.contract.weight[:, unit] *= 1e-3
    before = {name: tensor.clone() for name, tensor in plain_state(part).items()}
    block = ChannelMLPBlock(TOKENS, TOKENS)
    assert not inherit(block, [part], inputs())  # its hidden layer is the mixer's: none to fill
    mixing = MinimalRNNBlock(TOKENS, TOKENS, mlp=0.5)
    assert inherit(mixing, [part], inputs())
    norm, up = mlp(mixing)
    chosen = {tuple(row) for row in up.weight.tolist()}
    assert chosen == {tuple(part.expand.weight[unit].tolist()) for unit in used}
    assert torch.equal(norm.weight, part.after.weight)
    assert isinstance(mixing.norm, nn.LayerNorm)
    assert torch.equal(mixing.norm.bias, part.before.bias)
    assert all(torch.equal(before[name], tensor) for name, tensor in plain_state(part).items())


def test_units_beyond_the_guide_s_stay_random() -> None:
    part = randomised(Plain())
    block = TokenMixer(TOKENS, TOKENS, hidden=20)
    own = mlp(block)[1].weight.clone()
    assert inherit(block, [part], inputs())
    assert torch.equal(mlp(block)[1].weight[16:], own[16:])
    assert not torch.equal(mlp(block)[1].weight[:16], own[:16])


def test_a_span_gives_its_last_mlp_and_its_first_norm() -> None:
    first, last = randomised(Plain()), Plain()
    assert isinstance(first, Plain)
    block = TokenMixer(TOKENS, TOKENS, hidden=16)
    assert inherit(block, [first, last], inputs())
    assert torch.equal(mlp(block)[1].weight.sum(), last.expand.weight[order(block, last)].sum())
    assert isinstance(block.norm, nn.LayerNorm)
    assert torch.equal(block.norm.weight, first.before.weight)


def order(block: nn.Module, part: Plain) -> list[int]:
    """Which of the part's units the block's are."""
    rows = part.expand.weight.tolist()
    return [rows.index(row) for row in mlp(block)[1].weight.tolist()]


def test_the_layers_of_gpt2_are_known() -> None:
    transformers = pytest.importorskip("transformers")
    from nas_theseus.guide.huggingface import huggingface_guide

    config = transformers.GPT2Config(
        vocab_size=11, n_positions=6, n_embd=8, n_layer=1, n_head=2, bos_token_id=None,
        eos_token_id=None,
    )  # fmt: skip
    guide = huggingface_guide(transformers.GPT2LMHeadModel(config), 6, granularity="layer")
    part: Any = guide.parts[1]
    block = MinimalRNNBlock(TOKENS, TOKENS, mlp=4.0)
    assert inherit(block, [part], inputs())
    x = inputs()
    expected = nn.functional.gelu(part.mlp.inner.up(part.mlp.norm(x)))
    found = mlp_of(block, x)
    torch.testing.assert_close(found.sort(dim=-1)[0], expected.sort(dim=-1)[0])


def mlp_of(block: nn.Module, x: Tensor) -> Tensor:
    assert isinstance(block.mlp, nn.Sequential)
    found: Tensor = block.mlp(x)
    return found


@pytest.mark.parametrize(
    "part", [Plain(nn.ReLU()), nn.LayerNorm(8), nn.Linear(8, 8), nn.TransformerEncoderLayer(8, 2)]
)
def test_nothing_is_taken_where_there_is_no_such_mlp(part: nn.Module) -> None:
    block = TokenMixer(TOKENS, TOKENS, hidden=16)
    before = {name: tensor.clone() for name, tensor in plain_state(block).items()}
    assert not inherit(block, [part], inputs())
    assert all(torch.equal(before[name], tensor) for name, tensor in plain_state(block).items())

"""Sublayers of transformers against second derivations."""

from __future__ import annotations

import ast
import inspect

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.guide import sublayers
from nas_theseus.guide.sublayers import (
    MLP,
    Attention,
    Embedding,
    Head,
    Layer,
    Patches,
    Reading,
    Rotary,
    Sublayer,
    linear,
    lookup,
    rms_norm,
)

WIDTH, HEAD = 10, 6


def attention(reading: Reading, seed: int = 0, rotary: Rotary | None = None) -> Attention:
    """Four query heads and two key heads."""
    torch.manual_seed(seed)
    query, key, value = (nn.Linear(WIDTH, heads * HEAD) for heads in (4, 2, 2))
    norms = (nn.RMSNorm(HEAD), nn.RMSNorm(HEAD))
    output = nn.Linear(4 * HEAD, WIDTH)
    return Attention(
        query, key, value, output, head_width=HEAD, rotary=rotary, norms=norms, reading=reading
    ).eval()


def by_hand(module: Attention, x: Tensor) -> Tensor:
    """Attention of one text (T, D), one query head and one token at a time."""
    query, key, value = (each[0] for each in module.split(x[None]))
    rows = []
    for token in range(len(x)):
        mixed = []
        for head in range(4):
            first = 0 if module.window is None else max(0, token - module.window + 1)
            last = token + 1 if module.causal else len(x)
            if not module.causal and module.window is not None:
                last = min(len(x), token + module.window)
            products = key[head // 2, first:last] @ query[head, token] * module.scale
            if module.softcap is not None:
                products = module.softcap * (products / module.softcap).tanh()
            mixed.append(products.softmax(0) @ value[head // 2, first:last])
        rows.append(module.output(torch.cat(mixed)))
    return torch.stack(rows)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("softcap", [None, 0.3])
@pytest.mark.parametrize("window", [None, 3])
def test_attention_is_what_it_is_by_hand(
    window: int | None, softcap: float | None, causal: bool
) -> None:
    module = attention(Reading(0.4, window, softcap, causal))
    x = torch.randn(2, 7, WIDTH)
    with torch.no_grad():
        expected = torch.stack([by_hand(module, one) for one in x])
        torch.testing.assert_close(module(x), expected)


def test_attention_is_made_again_from_its_attributes() -> None:
    module = attention(Reading(window=3, softcap=2.0), rotary=Rotary(torch.tensor([0.5, 0.1])))
    assert module.reading == Reading(HEAD**-0.5, 3, 2.0, True)
    names = inspect.signature(Attention).parameters
    again = Attention(**{name: getattr(module, name) for name in names})
    x = torch.randn(1, 6, WIDTH)
    assert torch.equal(again(x), module(x))
    assert (module.heads, module.key_heads) == (4, 2)
    assert module.state_elements(10) == 3 * 2 * 2 * HEAD
    assert attention(Reading()).norms is not None
    bare = Attention(module.query, module.key, module.value, module.output, head_width=HEAD)
    assert bare.norms is None and bare.rotary is None


@pytest.mark.parametrize("interleaved", [True, False])
def test_rotary_positions_multiply_complex_numbers(interleaved: bool) -> None:
    frequencies = torch.tensor([1.0, 0.3])
    rotary = Rotary(frequencies, scaling=1.5, interleaved=interleaved)
    x, positions = torch.randn(1, 2, 5, HEAD), torch.arange(5) + 7
    found = rotary(x, positions)
    assert torch.equal(found[..., 4:], x[..., 4:])  # beyond the two pairs
    pairs = [(0, 1), (2, 3)] if interleaved else [(0, 2), (1, 3)]
    for (first, second), frequency in zip(pairs, frequencies, strict=True):
        numbers = torch.complex(x[..., first], x[..., second])
        turned = 1.5 * numbers * torch.exp(1j * positions * frequency)
        torch.testing.assert_close(found[..., first], turned.real)
        torch.testing.assert_close(found[..., second], turned.imag)


def test_products_depend_on_the_distance_alone() -> None:
    rotary = Rotary(torch.tensor([0.9, 0.2, 0.05]))
    query, key = torch.randn(1, 1, 1, HEAD), torch.randn(1, 1, 1, HEAD)

    def product(of: int, to: int) -> Tensor:
        turned = rotary(query, torch.tensor([of])), rotary(key, torch.tensor([to]))
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(9, 4), product(25, 20))


def mlp(gated: bool) -> MLP:
    gate = nn.Linear(WIDTH, 14) if gated else None
    return MLP(nn.Linear(WIDTH, 14), nn.Linear(14, WIDTH), nn.SiLU(), gate)


def test_sublayers_and_layers() -> None:
    f, g, x = attention(Reading()), mlp(gated=True), torch.randn(2, 5, WIDTH)
    norm, post, after = (nn.LayerNorm(WIDTH), nn.RMSNorm(WIDTH), nn.LayerNorm(WIDTH))
    assert f.query_norm is not None
    with torch.no_grad():
        for each in (norm, post, after):
            each.weight.uniform_(0.5, 2)
    torch.testing.assert_close(Sublayer(f, norm, post)(x), x + post(f(norm(x))))
    torch.testing.assert_close(Sublayer(f, after=after)(x), after(x + f(x)))
    first, second = Sublayer(f, norm), Sublayer(g, norm)
    torch.testing.assert_close(Layer(first, second)(x), second(first(x)))
    parallel = Layer(first, second, parallel=True)
    torch.testing.assert_close(parallel(x), x + f(norm(x)) + g(norm(x)))
    assert parallel.state_elements(5) == f.state_elements(5) == 5 * 2 * 2 * HEAD
    assert second.state_elements(5) == 0


def test_gated_and_plain_mlps() -> None:
    x = torch.randn(2, WIDTH)
    gated, plain = mlp(gated=True), mlp(gated=False)
    assert gated.gate is not None
    gate = gated.gate(x)
    expected = gated.down(gate * gate.sigmoid() * gated.up(x))
    torch.testing.assert_close(gated(x), expected)
    units = plain.up(x)
    torch.testing.assert_close(plain(x), plain.down(units * units.sigmoid()))


def test_embeddings_and_heads() -> None:
    tokens, positions, types = nn.Embedding(9, 4), nn.Embedding(6, 4), nn.Embedding(2, 4)
    norm, ids = nn.LayerNorm(4), torch.tensor([[3, 1, 8]])
    found = Embedding(tokens, 2.0, positions, types, norm)(ids)
    expected = 2 * tokens.weight[[3, 1, 8]] + positions.weight[:3] + types.weight[0]
    torch.testing.assert_close(found[0], norm(expected))
    output = nn.Linear(4, 9)
    torch.testing.assert_close(
        Head(output, norm, softcap=0.5)(found), 0.5 * torch.tanh(output(norm(found)) / 0.5)
    )
    torch.testing.assert_close(Head(output, norm, first=True)(found), output(norm(found[:, 0])))


def test_patches_follow_a_class_token() -> None:
    projection = nn.Conv2d(3, 4, 2, stride=2)
    token, positions = nn.Parameter(torch.randn(1, 1, 4)), nn.Parameter(torch.randn(1, 7, 4))
    images = torch.randn(2, 3, 4, 6)
    found = Patches(projection, token, positions)(images)
    assert found.shape == (2, 7, 4)
    torch.testing.assert_close(found[:, 0], (token + positions)[:, 0].expand(2, 4))
    patch = images[:, :, 2:4, 2:4].flatten(1)  # second row, second column: the fifth
    row = patch @ projection.weight.flatten(1).T + projection.bias + positions[:, 5]
    torch.testing.assert_close(found[:, 5], row)


def test_maps_and_norms_share_what_they_are_made_of() -> None:
    weight, bias, table = torch.randn(4, 6), torch.randn(4), torch.randn(5, 6)
    for made, given in (
        (linear(weight.T, None).weight, weight),
        (linear(weight, bias).bias, bias),
        (lookup(table).weight, table),
        (rms_norm(bias, 1e-3).weight, bias),
    ):
        assert made.data_ptr() == given.data_ptr() and isinstance(made, nn.Parameter)
    parameter = nn.Parameter(weight)
    assert linear(parameter).weight is parameter
    assert rms_norm(bias, 1e-3).eps == 1e-3


def test_the_file_needs_torch_alone() -> None:
    """It is copied into exported folders."""
    tree = ast.parse(inspect.getsource(sublayers))
    imported = {
        name.split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in (
            [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else [a.name for a in node.names]
        )
    }
    assert imported <= {"__future__", "dataclasses", "typing", "torch"}

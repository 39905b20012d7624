"""Converted blocks between narrower boundaries: keys, channels of the stream, and divergence."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep, Pointwise
from nas_theseus.blocks.pruning import RIDGE
from nas_theseus.candidate.workshop import Workshop
from nas_theseus.conversion.activations import GuideActivations
from nas_theseus.conversion.divergence import ReplaceOne
from nas_theseus.conversion.selection import Selection
from nas_theseus.conversion.target import assemble
from nas_theseus.guide.networks import ResNet
from nas_theseus.library.block_conversion import convert_block, load_into
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.tasks import digits
from nas_theseus.transforms import FewerChannels, NarrowStream
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

CPU = torch.device("cpu")
LIVE = torch.tensor([1, 2, 4, 7])


def make_space() -> SearchSpace:
    """A guide in whose first stream four channels alone are not 0."""
    torch.manual_seed(0)
    network = ResNet((1, 1), width=8)
    dead = torch.ones(8)
    dead[LIVE] = 0
    for norm in (network.stem[1], network.block1.norm2):
        assert isinstance(norm, nn.BatchNorm2d)
        norm.weight.data *= 1 - dead
    return SearchSpace(
        guide=cut(network, network.cuts, inlet=(1, 8, 8)),
        task=digits(),
        blocks=[Keep(), NarrowStream(), FewerChannels(keep=0.5).on("block1", "block2"),
                Pointwise().on("block2")],
        widths=(1.0, 0.5),
        recipe=Recipe(align_steps=0, align_examples=192, align_batch_size=64),
    )  # fmt: skip


SPACE = make_space()
ACTIVATIONS = GuideActivations(SPACE.guide, SPACE.task.sample(192), CPU, selects=True)
NARROW = [BlockChoice(Span(i, i + 1), "narrow_stream", (), s) for i, s in enumerate((0.5, 0.5, 1))]
EVERYWHERE = [
    BlockChoice(Span(i, i + 1), "narrow_stream", (), 1.0 if i == 3 else 0.5) for i in range(4)
]


def test_a_workshop_s_activations_select_channels() -> None:
    assert isinstance(Workshop(SPACE, CPU).activations.projection(1, 4), Selection)
    assert not isinstance(ACTIVATIONS.projection(1, 16), Selection)


def test_a_stream_keeps_the_same_channels_everywhere() -> None:
    for boundary in (1, 2):
        assert torch.equal(ACTIVATIONS.channels(boundary, 4), LIVE)
    smaller, larger = (set(ACTIVATIONS.channels(3, width).tolist()) for width in (5, 8))
    assert smaller < larger


def test_a_guide_with_dead_channels_loses_nothing_without_them() -> None:
    chosen = Architecture((*NARROW, BlockChoice(Span(3, 4), "keep")))
    assert SPACE.refusal(chosen) is None
    network = assemble(SPACE, chosen, 0, activations=ACTIVATIONS).eval()
    inputs = SPACE.task.sample(64)
    with torch.no_grad():
        wanted = SPACE.guide.eval()(inputs)
        torch.testing.assert_close(network(inputs), wanted, rtol=1e-3, atol=1e-3)
    assert len(next(network.blocks[0].parameters())) == 4


def test_blocks_of_one_library_fit_together() -> None:
    """Converted one by one, they are the blocks of the network that is assembled at once."""
    keys, share = BlockKeys(SPACE), 1.0
    architecture = Architecture(tuple(EVERYWHERE))
    loaded = assemble(SPACE, architecture, 0).eval()
    at_once = assemble(SPACE, architecture, 1, activations=ACTIVATIONS).eval()
    for one, block, other in zip(EVERYWHERE, loaded.blocks, at_once.blocks, strict=True):
        state, _ = convert_block(SPACE, keys.of(one, share), ACTIVATIONS)
        load_into(block, state)
        share = one.width_share
        for (name, made), same in zip(block.named_parameters(), other.parameters(), strict=True):
            torch.testing.assert_close(made, same, msg=name)


def test_a_block_is_charged_with_what_it_adds_to_the_loss_of_its_inlet() -> None:
    replacing = ReplaceOne(SPACE.guide, SPACE.task, 100, CPU)
    key = BlockKeys(SPACE).of(EVERYWHERE[3], 0.5)
    state, facts = convert_block(SPACE, key, ACTIVATIONS, replacing)
    head = SPACE.build(EVERYWHERE[3], 0.5).eval()
    load_into(head, state)
    (batch,) = SPACE.task.batches("validation", 100, seed=0, limit=100)
    parts, channels = SPACE.guide.parts, ACTIVATIONS.channels(3, 8)
    seen = ACTIVATIONS.at(3).movedim(1, -1).flatten(0, -2).double()
    off = seen - seen.mean(0)
    inner = off[:, channels].T @ off[:, channels]
    inner += RIDGE * inner.diagonal().mean() * torch.eye(8)
    back = torch.linalg.solve(inner, off[:, channels].T @ off)
    with torch.no_grad():
        features = parts[2](parts[1](parts[0](batch.inputs)))
        kept = features[:, channels]
        guessed = (kept.movedim(1, -1).double() - seen.mean(0)[channels]) @ back + seen.mean(0)
        guessed = guessed.clamp(min=0).movedim(-1, 1).float()
        guessed[:, channels] = kept
        teacher = SPACE.guide(batch.inputs)
        found = SPACE.task.distillation(head(kept), teacher, 1.0)
        without = SPACE.task.distillation(parts[3](guessed), teacher, 1.0)
    assert facts.divergence == pytest.approx(max(0.0, float(found - without)), rel=0.02, abs=2e-6)
    assert float(without) > 0


def test_keys_of_the_guide_s_widths_do_not_depend_on_the_basis() -> None:
    plain = replace(SPACE, widths=(1.0,), blocks=[b for b in SPACE.blocks if b.at_own_widths])
    free = replace(SPACE, blocks=[Keep(), Pointwise().on("block2")])
    pointwise = BlockChoice(Span(2, 3), "pointwise", (("expand", 1.0),))
    fewer = BlockChoice(Span(1, 2), "fewer_channels", (("keep", 0.5),))
    keys, others = BlockKeys(SPACE), BlockKeys(plain)
    for one in (pointwise, fewer):
        assert keys.of(one).id == others.of(one).id
        assert "basis" not in keys.of(one).to_json()
    narrow = replace(pointwise, width_share=0.5)
    selected, projected = keys.of(narrow), BlockKeys(free).of(narrow)
    assert (selected.basis, projected.basis) == ("channels", "")
    assert selected.id != projected.id
    assert BlockKey.from_json(selected.to_json()) == selected
    ids = {keys.of(replace(EVERYWHERE[2], width_share=s), i).id for s in (1, 0.5) for i in (1, 0.5)
           if (s, i) != (1, 1)}  # fmt: skip
    assert len(ids) == 3

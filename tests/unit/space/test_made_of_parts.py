"""Blocks of guide parts between other widths: where they fit, what they cost, and their genomes."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Keep, SkipPart
from nas_theseus.conversion.target import assemble
from nas_theseus.costs import count_macs, count_params
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import PairingError
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.networks import ResNet
from nas_theseus.space.genome import Genome
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import digits
from nas_theseus.transforms import FewerChannels, Narrower, NarrowStream, Wider
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

STEM, BLOCK, ENTRY, HEAD = (Span(i, i + 1) for i in range(4))


def make_space(**changes: Any) -> SearchSpace:
    torch.manual_seed(0)
    network = ResNet((1, 1), width=8)
    settings: dict[str, Any] = {
        "blocks": [
            Keep(),
            NarrowStream(),
            FewerChannels(keep=choice(0.5, 0.25)).on("block1", "block2"),
            SkipPart().on("block1"),
            Depthwise(expand=1, kernel=3).on("block1", "block2").at_guide_widths(),
        ],
        "widths": (1.0, 0.5),
    }
    guide = cut(network, network.cuts, inlet=(1, 8, 8))
    return SearchSpace(guide=guide, task=digits(), **{**settings, **changes})


SPACE = make_space()


def test_parts_that_add_to_their_input_have_one_width_on_both_sides() -> None:
    assert SPACE.selects_channels
    fits = SPACE.fitting
    assert fits[STEM, 1.0] == {"keep": (1.0,), "narrow_stream": (0.5,)}
    for name in ("fewer_channels", "skip"):
        assert fits[BLOCK, 1.0][name] == (1.0,)
        assert fits[BLOCK, 0.5][name] == (0.5,)
    assert fits[BLOCK, 0.5]["narrow_stream"] == (0.5,)
    assert fits[ENTRY, 1.0]["narrow_stream"] == (0.5,)
    assert fits[ENTRY, 0.5]["narrow_stream"] == (1.0, 0.5)
    assert fits[ENTRY, 1.0]["fewer_channels"] == (1.0, 0.5)
    assert fits[HEAD, 0.5] == {"narrow_stream": (1.0,)}
    assert fits[HEAD, 1.0] == {"keep": (1.0,)}
    assert not mistakes_in(SPACE)


def test_blocks_at_guide_widths_stand_nowhere_else() -> None:
    assert "depthwise" in SPACE.fitting[BLOCK, 1.0]
    assert SPACE.fitting[BLOCK, 1.0]["depthwise"] == (1.0,)
    assert "depthwise" not in SPACE.fitting[BLOCK, 0.5]
    said = SPACE.block_refusal(SPACE.families["depthwise"], BLOCK, 0.5, 0.5)
    assert said == "block 'depthwise' keeps the guide's widths"


def test_the_guide_s_part_is_not_offered_twice() -> None:
    narrow, keep = SPACE.families["narrow_stream"], SPACE.families["keep"]
    said = SPACE.block_refusal(narrow, BLOCK)
    assert said is not None and "Keep() offers" in said
    assert "keeps the guide's widths" in str(SPACE.block_refusal(keep, BLOCK, 0.5, 0.5))
    (mistake,) = mistakes_in(make_space(blocks=[Keep(), NarrowStream()], widths=(1.0,)))
    assert "cannot replace any span" in mistake and "Add shares below 1" in mistake


def test_refusals_say_what_adds_to_its_input_and_what_would_be_wider() -> None:
    narrow = SPACE.families["narrow_stream"]
    said = SPACE.block_refusal(narrow, BLOCK, 0.5, 1.0)
    assert said is not None and "adds to its input" in said and "'block1'" in said
    wide = make_space(widths=(1.0, 2.0, 0.5))
    assert "use shares up to 1" in str(wide.block_refusal(narrow, STEM, 1.0, 2.0))
    assert wide.fitting[STEM, 1.0]["narrow_stream"] == (0.5,)


def test_a_refusal_that_alike_parts_share_names_each_of_them() -> None:
    parts = [(name, ResNet((1,), 8).block1) for name in ("one", "two")]
    guide = Guide([("stem", nn.Conv2d(1, 8, 1)), *parts, ("end", nn.Flatten())], (1, 8, 8))
    blocks = [Keep(), NarrowStream()]
    space = SearchSpace(guide=guide, task=digits(), blocks=blocks, widths=(1.0, 0.5))
    assert space.part_kind(1) == space.part_kind(2)
    for index in (1, 2):
        said = space.block_refusal(space.blocks[1], space.span(index, index + 1), 0.5, 1.0)
        assert said is not None and said.count("part '") == 1
        assert f"part {guide.names[index]!r}: cannot stand between" in said


def test_without_a_narrowing_block_parts_keep_the_guide_s_widths() -> None:
    blocks = [Keep(), Narrower(), SkipPart().on("block1"), Depthwise()]
    space = make_space(blocks=blocks)
    assert not space.selects_channels
    assert space.fitting[BLOCK, 0.5].keys() == {"depthwise"}
    blocks = [Keep(), Wider(), FewerChannels().on("block1").at_guide_widths()]
    space = make_space(blocks=blocks)
    assert not space.selects_channels
    assert {share for _, share in space.fitting} == {1.0}


def test_forms_that_begin_as_the_part_stay_at_its_widths() -> None:
    space = make_space(blocks=[Keep(), Wider().on("block1"), NarrowStream()])
    assert "wider" in space.fitting[BLOCK, 1.0] and "wider" not in space.fitting[BLOCK, 0.5]


def narrow_architecture() -> Architecture:
    half = (("keep", 0.5),)
    return Architecture(
        (
            BlockChoice(STEM, "narrow_stream", (), 0.5),
            BlockChoice(BLOCK, "fewer_channels", half, 0.5),
            BlockChoice(ENTRY, "narrow_stream", (), 0.5),
            BlockChoice(HEAD, "narrow_stream"),
        )
    )


def test_costs_are_those_of_the_network() -> None:
    found = narrow_architecture()
    assert SPACE.refusal(found) is None
    network = assemble(SPACE, found, 0)
    cost = CostTable(SPACE).of(found)
    assert cost.macs == count_macs(network, SPACE.guide.boundaries[0])
    assert cost.params == count_params(network)
    # Half as wide but for the 16 inner channels of the second block, which has 8 of them there.
    inner = 8 * 4 * 9 + 2 * 8 + 8 * 8 * 9
    assert cost.params == count_params(ResNet((1, 1), width=4)) + inner


def test_every_genome_is_an_architecture_and_every_architecture_has_one() -> None:
    genome = Genome(SPACE)
    draw = random.Random(0)
    seen = set()
    for _ in range(300):
        genes = {name: draw.choice(values) for name, values in genome.genes.items()}
        found = genome.decode(genes)
        assert SPACE.refusal(found) is None
        assert genome.decode(genome.encode(found)) == found
        seen.add(tuple(choice.width_share for choice in found.choices))
    assert seen == {(1, 1, 1, 1), (1, 1, 0.5, 1), (0.5, 0.5, 1, 1), (0.5, 0.5, 0.5, 1)}


def test_a_width_that_the_next_part_cannot_read_is_not_taken() -> None:
    genome = Genome(SPACE)
    genes = {"block_0": "narrow_stream", "width_0": 0.5, "block_1": "keep", "block_2": "keep"}
    assert genome.decode(genes).choices[0].width_share == 0.5  # the only width it has
    genes |= {"block_2": "fewer_channels", "width_2": 0.5, "block_3": "keep"}
    shares = [one.width_share for one in genome.decode(genes).choices]
    assert shares == [0.5, 0.5, 1.0, 1.0]


def test_a_block_between_wrong_widths_is_not_built() -> None:
    wrong = BlockChoice(BLOCK, "narrow_stream", (), 1.0)
    with pytest.raises(PairingError, match="part 'block1' cannot stand between"):
        SPACE.build(wrong, 0.5)

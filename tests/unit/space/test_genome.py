"""The genome: fixed length, total decoding, round trips; counting against enumeration."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Identity, Keep, Linear, Pool
from nas_theseus.space.genome import Genome
from nas_theseus.tasks import digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span


def make_space(max_span: int = 3, **changes: Any) -> SearchSpace:
    def conv(inlet: int, outlet: int, stride: int = 1) -> nn.Module:
        return nn.Sequential(nn.Conv2d(inlet, outlet, 3, stride, 1), nn.ReLU())

    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4, 2), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Depthwise(expand=choice(1, 2)), Linear(), Identity(), Pool()],
        max_span=max_span,
        keep=["head"],
        **changes,
    )


SPACE = make_space()
FREE = make_space(max_span=2, widths=(0.5, 1.0))
GENOME = Genome(SPACE)


def every_architecture(
    space: SearchSpace, start: int = 0, share: float = 1.0
) -> list[tuple[BlockChoice, ...]]:
    """All of them, by plain recursion over spans: the second derivation of `count`."""
    if start == len(space.guide):
        return [()]
    return [
        (first, *rest)
        for span in space.spans()
        if span.start == start
        for first in space.choices(span, share)
        for rest in every_architecture(space, span.stop, first.width_share)
    ]


def test_count_is_the_number_of_different_architectures() -> None:
    for space in (SPACE, FREE):
        found = [Architecture(choices) for choices in every_architecture(space)]
        assert space.count() == len(found) == len({a.id for a in found})


def test_every_architecture_can_be_encoded_and_comes_back() -> None:
    for space in (SPACE, FREE):
        genome = Genome(space)
        for choices in every_architecture(space):
            genes = genome.encode(Architecture(choices))
            assert set(genes) == set(genome.genes)
            assert all(genes[name] in values for name, values in genome.genes.items())
            assert genome.decode(genes).choices == choices


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_genome_means_an_architecture_of_the_space(data: st.DataObject) -> None:
    for space in (SPACE, FREE):
        genome = Genome(space)
        genes = {
            name: data.draw(st.sampled_from(values), label=name)
            for name, values in genome.genes.items()
        }
        assert space.refusal(genome.decode(genes)) is None


def test_free_widths_stand_only_where_no_kept_part_follows() -> None:
    narrow = 0
    for choices in every_architecture(FREE):
        for block, after in itertools.pairwise(choices):
            assert block.width_share == 1 or after.block != "keep"
            narrow += block.width_share != 1
        assert choices[-1].width_share == 1
        assert FREE.boundaries(Architecture(choices))[-1] == FREE.guide.boundaries[-1]
    assert narrow


def test_a_wish_to_keep_a_part_wins_over_a_narrow_outlet_before_it() -> None:
    genome = Genome(FREE)
    genes = {name: values[0] for name, values in genome.genes.items()}
    genes |= {"block_0": "linear", "width_0": 0.5, "block_1": "keep"}
    first, second, *_ = genome.decode(genes).choices
    assert (first.width_share, second.block) == (1.0, "keep")
    first, second, *_ = genome.decode(genes | {"block_1": "depthwise"}).choices
    assert (first.width_share, second.block) == (0.5, "depthwise")


def test_kept_parts_stay_and_spans_are_bounded() -> None:
    for choices in every_architecture(SPACE):
        assert choices[-1].block == "keep"
        assert all(len(choice.span) <= 3 for choice in choices)
    assert "block_3" not in GENOME.genes


def test_without_spans_there_are_no_cut_genes() -> None:
    genome = Genome(make_space(max_span=1))
    assert not any(name.startswith("cut") for name in genome.genes)
    assert all(len(c.span) == 1 for c in genome.decode({}).choices)


def test_fitting_follows_the_shapes() -> None:
    names = {span: list(fits) for (span, _), fits in SPACE.fitting.items()}
    assert names[Span(0, 1)] == ["keep", "depthwise", "linear"]
    assert names[Span(1, 2)] == ["keep", "depthwise", "linear", "identity"]
    assert names[Span(2, 3)] == ["keep", "depthwise", "linear", "pool"]
    assert Span(2, 4) not in names


@pytest.mark.parametrize("values", [(), (1, 1), ([1],)])
def test_choices_that_make_no_sense(values: tuple[object, ...]) -> None:
    with pytest.raises(ValueError, match=r"choice"):
        choice(*values)  # type: ignore[arg-type]


def test_genes_cover_all_combinations_of_a_small_genome() -> None:
    small = Genome(make_space(max_span=1))
    names = list(small.genes)
    found = {
        small.decode(dict(zip(names, values, strict=True))).id
        for values in itertools.product(*small.genes.values())
    }
    assert len(found) == make_space(max_span=1).count()

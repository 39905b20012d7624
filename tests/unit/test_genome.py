"""The genome: fixed length, total decoding, round trips; counting against enumeration."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import Depthwise, Identity, Keep, Linear, Pool
from nas_theseus.genome import Genome
from nas_theseus.tasks import digits
from nas_theseus.values import Architecture, Span


def make_space(max_span: int = 3) -> SearchSpace:
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
    )


SPACE = make_space()
GENOME = Genome(SPACE)


def every_architecture(space: SearchSpace, start: int = 0) -> list[Architecture]:
    """All of them, by plain recursion over spans: the second derivation of `count`."""
    if start == len(space.guide):
        return []
    found = []
    for span in [s for s in space.spans() if s.start == start]:
        for first in space.choices(span):
            rest = every_architecture(space, span.stop)
            if span.stop == len(space.guide):
                found.append(Architecture.__new__(Architecture))
                object.__setattr__(found[-1], "choices", (first,))
            for tail in rest:
                whole = Architecture.__new__(Architecture)
                object.__setattr__(whole, "choices", (first, *tail.choices))
                found.append(whole)
    return found


def test_count_is_the_number_of_different_architectures() -> None:
    found = every_architecture(SPACE)
    assert SPACE.count() == len(found) == len({a.id for a in found})


def test_every_architecture_can_be_encoded_and_comes_back() -> None:
    for architecture in every_architecture(SPACE):
        genes = GENOME.encode(architecture)
        assert set(genes) == set(GENOME.genes)
        assert GENOME.decode(genes) == architecture


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_every_genome_means_an_architecture_of_the_space(data: st.DataObject) -> None:
    genes = {
        name: data.draw(st.sampled_from(values), label=name)
        for name, values in GENOME.genes.items()
    }
    assert SPACE.refusal(GENOME.decode(genes)) is None


def test_kept_parts_stay_and_spans_are_bounded() -> None:
    for architecture in every_architecture(SPACE):
        assert architecture.choices[-1].block == "keep"
        assert all(len(choice.span) <= 3 for choice in architecture.choices)
    assert "block_3" not in GENOME.genes


def test_without_spans_there_are_no_cut_genes() -> None:
    genome = Genome(make_space(max_span=1))
    assert not any(name.startswith("cut") for name in genome.genes)
    assert all(len(c.span) == 1 for c in genome.decode({}).choices)


def test_fitting_follows_the_shapes() -> None:
    names = {span: [f.name for f in SPACE.fitting[span]] for span in SPACE.fitting}
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

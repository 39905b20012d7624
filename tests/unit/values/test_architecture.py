"""Architectures: ids, joins, round trips; kinds of boundaries."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys

import pytest

from nas_theseus.values.architecture import Architecture, BlockChoice, Boundary, Span


def architecture(width: int = 2) -> Architecture:
    return Architecture(
        (
            BlockChoice(Span(0, 1), "keep"),
            BlockChoice(Span(1, 3), "depthwise", (("expand", width), ("kernel", 3))),
        )
    )


def test_an_id_depends_on_the_choices_alone_and_survives_json() -> None:
    first = architecture()
    assert Architecture.from_json(first.to_json()) == first
    assert Architecture.from_json(first.to_json()).id == first.id
    assert architecture(4).id != first.id
    assert first.id == "".join(c for c in first.id if c in "0123456789abcdef")
    assert first.pairing == "0|1-2"
    assert first.blocks == "keep|depthwise(expand=2, kernel=3)"


def test_equal_ones_have_equal_hashes_that_are_not_taken_to_another_process() -> None:
    first, second = architecture(), architecture()
    assert hash(first) == hash(second) and {first: 1}[second] == 1
    assert hash(first.choices[1]) == hash(second.choices[1]) != hash(architecture(4).choices[1])
    program = (
        "import pickle, sys; from tests.unit.values.test_architecture import architecture; "
        "given = pickle.loads(bytes.fromhex(sys.argv[1])); print({architecture(): 1}[given])"
    )
    sent = pickle.dumps(first).hex()
    for seed in ("1", "2"):  # of the hashes of texts
        done = subprocess.run(
            [sys.executable, "-c", program, sent],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.stdout.strip() == "1", done.stderr


def test_names_of_parts_are_shown_and_kept_and_change_no_identity() -> None:
    plain = architecture()
    named = plain.named(["stem", "layer1.0", "layer1.1"])
    assert named == plain and hash(named) == hash(plain) and named.id == plain.id
    assert named.pairing == "stem|layer1.0–layer1.1"
    assert named.label(1) == "1: depthwise(expand=2, kernel=3) for parts layer1.0–layer1.1"
    assert named.label(0) == "0: keep for part stem"
    again = Architecture.from_json(named.to_json())
    assert again == named and again.pairing == named.pairing
    assert named.named(["a", "b", "c"]).pairing == "a|b–c"
    assert sorted([Span(1, 2, ("z",)), Span(0, 1)]) == [Span(0, 1), Span(1, 2, ("a",))]


def test_names_that_do_not_fit_a_span_are_refused() -> None:
    with pytest.raises(ValueError, match="2 parts cannot have 1 names"):
        Span(0, 2, ("stem",))
    item = {"span": [0, 2], "block": "keep", "parts": ["stem"]}
    with pytest.raises(ValueError, match="2 parts cannot have 1 names"):
        Architecture.from_json([item])


@pytest.mark.parametrize("spans", [[(0, 1), (2, 3)], [(0, 2), (1, 3)], [(1, 2)], []])
def test_spans_that_do_not_join_are_refused(spans: list[tuple[int, int]]) -> None:
    with pytest.raises(ValueError, match=r"must be adjacent|at least one"):
        Architecture(tuple(BlockChoice(Span(a, b), "keep") for a, b in spans))


def test_json_that_is_no_architecture_says_what_one_is() -> None:
    with pytest.raises(ValueError, match="an architecture is a list of"):
        Architecture.from_json([{"block": "keep"}])


def test_boundary_kinds() -> None:
    assert Boundary((3, 8, 8)).kind == "map" and Boundary((3, 8, 8)).width == 3
    assert Boundary((5, 7)).kind == "tokens" and Boundary((5, 7)).width == 7
    assert Boundary((7,)).kind == "vector"
    assert Boundary((7,), integer=True).kind == "ids"
    with pytest.raises(ValueError, match="a boundary is"):
        _ = Boundary((1, 2, 3, 4)).kind

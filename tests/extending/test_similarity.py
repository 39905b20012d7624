"""A similarity of a space file's own: used in a real conversion, and known by its code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nas_theseus.candidate.workshop import Converted, Workshop
from nas_theseus.errors import ConversionError
from nas_theseus.library.block_key import BlockKey, BlockKeys
from nas_theseus.library.store import Library
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

ABSOLUTE = '''
from dataclasses import dataclass
from typing import ClassVar

LEAST = 1e-6


def spread(features):
    return (features - features.mean(0)).abs().mean() + LEAST


@dataclass(frozen=True)
class Absolute:
    """Mean absolute error over the guide's mean absolute deviation, to a power."""

    name: ClassVar[str] = "absolute-error"
    aligned_basis: ClassVar[bool] = True
    minimum_examples: ClassVar[int] = 2

    power: float = 1.0

    def prepare(self, guide):
        return guide.float(), spread(guide.float())

    def loss(self, features, prepared):
        guide, deviation = prepared
        return ((features.float() - guide).abs().mean() / deviation) ** self.power

'''
DEPTHWISE = BlockChoice(Span(1, 2), "depthwise", (("expand", 1),))
CHOSEN = Architecture(
    (
        BlockChoice(Span(0, 1), "keep"),
        DEPTHWISE,
        BlockChoice(Span(2, 3), "linear"),
        BlockChoice(Span(3, 4), "keep"),
    )
)


def with_similarity(text: str, settings: str, before: str = "") -> str:
    """The toy space with the similarity of this file and more settings of the recipe."""
    text = text.replace("\n\ndef space()", f"\n{ABSOLUTE}{before}\ndef space()")
    return text.replace("align_steps=5", f"align_steps=5, {settings}")


def load(folder: Path, text: str) -> SearchSpace:
    path = folder / "own.py"
    path.write_text(text, encoding="utf-8")
    return load_space(path)


def key_of(folder: Path, text: str) -> BlockKey:
    return BlockKeys(load(folder, text)).of(DEPTHWISE)


def converted(space: SearchSpace, library: Library | None = None) -> Converted:
    workshop = Workshop(space, torch.device("cpu"))
    *_, last = workshop.convert(CHOSEN, 0, library=library)
    assert isinstance(last, Converted)
    return last


def similarities(made: Converted) -> dict[str, float]:
    curve = made.evaluation.curve
    return {p.metric: p.value for p in curve if p.metric.startswith("similarity/")}


def test_blocks_of_the_library_are_converted_by_an_object(
    tmp_path: Path, toy_space_text: str
) -> None:
    text = with_similarity(toy_space_text, "similarity=Absolute(), library=True")
    found = []
    for steps in (1, 40):
        space = load(tmp_path, text.replace("align_steps=5", f"align_steps={steps}"))
        name, _, mark = space.recipe.similarity.partition("@")
        assert name == "absolute-error" and len(mark) == 8
        library = Library(tmp_path / "library")
        made = similarities(converted(space, library))
        entry = library.get(BlockKeys(space).of(DEPTHWISE))
        assert entry is not None
        assert entry.record.facts.similarity == made["similarity/1"]
        found.append(made)
    short, long = found
    # Steps on its loss raise it; the default's loss leads elsewhere.
    assert all(long[position] > short[position] for position in ("similarity/1", "similarity/2"))
    default = similarities(converted(load(tmp_path, toy_space_text)))
    assert default.keys() == long.keys()
    assert default not in (short, long)


def test_an_edit_changes_the_keys_of_blocks_and_other_lines_do_not(
    tmp_path: Path, toy_space_text: str
) -> None:
    text = with_similarity(toy_space_text, "similarity=Absolute()")
    key = key_of(tmp_path, text)
    edits = [
        (".abs().mean() / deviation", ".square().mean() / deviation"),  # the class itself
        (".abs().mean() + LEAST", ".abs().max() + LEAST"),  # a function that it calls
        ("LEAST = 1e-6", "LEAST = 1e-3"),  # a constant that this function takes
        ("similarity=Absolute()", "similarity=Absolute(power=2.0)"),  # a field
    ]
    found = {key.id}
    for before, after in edits:
        changed = text.replace(before, after)
        assert changed != text
        found.add(key_of(tmp_path, changed).id)
    assert len(found) == len(edits) + 1
    assert key_of(tmp_path, text.replace("epochs=1", "epochs=3")) == key
    assert key_of(tmp_path, text.replace('"""Digits,', '"""Some digits,')) == key


def test_a_registered_name_takes_options_and_is_held_with_its_fingerprint(
    tmp_path: Path, toy_space_text: str
) -> None:
    register = (
        "from nas_theseus.values.registers import SIMILARITIES\n\n"
        'SIMILARITIES.add("registered", Absolute)\n\n'
    )
    settings = 'similarity="registered", similarity_options={"power": 2.0}'
    recipe = load(tmp_path, with_similarity(toy_space_text, settings, register)).recipe
    assert recipe.similarity.startswith("registered@")
    plain = load(
        tmp_path, with_similarity(toy_space_text, 'similarity="registered"', register)
    ).recipe
    assert plain.similarity == recipe.similarity
    assert plain.id != recipe.id
    assert plain.alignment != recipe.alignment


ELSEWHERE = """
import json
from nas_theseus.conversion.similarity import similarity
from nas_theseus.errors import UnknownNameError
from nas_theseus.errors import ConversionError
from nas_theseus.library.block_key import BlockKey
from nas_theseus.library.store import Library
from nas_theseus.space.load import load_space

key = BlockKey.from_json(json.load(open("key.json")))
print(key.id)
print(Library("library").verify())
try:
    similarity(key.recipe.similarity)
except UnknownNameError as error:
    print(error)
load_space("own.py")
print(similarity(key.recipe.similarity))
"""


def test_a_library_is_read_anywhere_and_used_where_the_space_file_is_loaded(
    tmp_path: Path, toy_space_text: str
) -> None:
    space = load(tmp_path, with_similarity(toy_space_text, "similarity=Absolute(), library=True"))
    converted(space, Library(tmp_path / "library"))
    key = BlockKeys(space).of(DEPTHWISE)
    (tmp_path / "key.json").write_text(json.dumps(key.to_json()), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    id_, verified, refused, found = done.stdout.splitlines()
    assert id_ == key.id
    assert verified == "Verified(sound=2, set_aside=(), leftovers=0)"
    assert f"{key.recipe.similarity!r} is defined in a space file that has not been" in refused
    assert found == "Absolute(power=1.0)"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("def loss(", "def losses("), r"'absolute-error' \(Absolute\) lacks a method loss"),
        (("def prepare(self, guide)", "def prepare(self)"), r"lacks a method prepare\(guide\)"),
        (("    aligned_basis: ClassVar[bool] = True\n", ""), "an attribute 'aligned_basis'"),
        (('"absolute-error"', '"cka"'), "'cka' is part of nas-theseus; .* another name"),
        (('"absolute-error"', '"my own"'), "'my own' cannot be the name .* use letters"),
        (('    name: ClassVar[str] = "absolute-error"\n', ""), "has no attribute 'name'"),
    ],
)
def test_a_mistake_in_an_object_is_refused_with_its_line(
    tmp_path: Path, toy_space_text: str, change: tuple[str, str], message: str
) -> None:
    text = with_similarity(toy_space_text, "similarity=Absolute()")
    assert text.replace(*change) != text
    with pytest.raises(ValueError, match=f"line [0-9]+: similarity: .*{message}"):
        load(tmp_path, text.replace(*change))


def test_batches_of_too_few_examples_are_refused_before_training(
    tmp_path: Path, toy_space_text: str
) -> None:
    text = with_similarity(toy_space_text, "similarity=Absolute(), align_batch_size=8")
    text = text.replace("minimum_examples: ClassVar[int] = 2", "minimum_examples: ClassVar = 9")
    with pytest.raises(
        ConversionError,
        match="block .*: similarity 'absolute-error' needs 9 examples, but a batch has 8 of 1024: "
        "raise align_batch_size",
    ):
        converted(load(tmp_path, text))

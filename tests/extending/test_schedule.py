"""A schedule of a space file's own, used in a real conversion."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_theseus.candidate.workshop import Converted, Workshop
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

LAST_TWICE = '''
from nas_theseus.conversion.stage import Schedule, Stage


class LastTwice(Schedule):
    """The last block by itself, then all together."""

    name = "last_twice"

    def stages(self, order, replaced):
        last = replaced[-1]
        alone = Stage(last, last + 1, (last,), (last,), stitched=last, replaced=(last,))
        return [alone, Stage(replaced[0], last + 1, replaced, replaced, last, replaced)]

'''
CHOSEN = Architecture(
    (
        BlockChoice(Span(0, 1), "keep"),
        BlockChoice(Span(1, 2), "depthwise", (("expand", 1),)),
        BlockChoice(Span(2, 3), "linear"),
        BlockChoice(Span(3, 4), "keep"),
    )
)


def load(folder: Path, text: str, settings: str, *edits: tuple[str, str]) -> SearchSpace:
    text = text.replace("\n\ndef space()", f"\n{LAST_TWICE}\ndef space()")
    text = text.replace("align_steps=5", f"align_steps=5, {settings}")
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    path = folder / "own.py"
    path.write_text(text, encoding="utf-8")
    return load_space(path)


def test_its_stages_are_run(tmp_path: Path, toy_space_text: str) -> None:
    space = load(tmp_path, toy_space_text, "schedule=LastTwice")
    assert space.recipe.schedule.startswith("last_twice@")
    assert space.recipe.taught and not space.recipe.is_control
    workshop = Workshop(space, torch.device("cpu"))
    *_, last = workshop.convert(CHOSEN, 0)
    assert isinstance(last, Converted)
    aligned = [
        (point.metric, point.step)
        for point in last.evaluation.curve
        if point.metric.startswith("similarity/")
    ]
    assert aligned == [("similarity/2", 0), ("similarity/1", 1), ("similarity/2", 1)]


def test_an_edit_changes_the_recipe_but_not_the_keys_of_blocks(
    tmp_path: Path, toy_space_text: str
) -> None:
    recipe = load(tmp_path, toy_space_text, "schedule=LastTwice()").recipe
    edit = ("last = replaced[-1]", "last = max(replaced)")
    edited = load(tmp_path, toy_space_text, "schedule=LastTwice()", edit).recipe
    assert edited.id != recipe.id
    assert edited.alignment == recipe.alignment  # blocks of the library are made each alone


def test_its_facts_decide_what_the_recipe_does(tmp_path: Path, toy_space_text: str) -> None:
    edit = ('name = "last_twice"', 'name = "last_twice"\n    is_control = fresh = True')
    recipe = load(tmp_path, toy_space_text, "schedule=LastTwice(), library=True", edit).recipe
    assert recipe.is_control and recipe.untouched_by_guide and not recipe.takes_blocks


def test_one_without_stages_is_refused_with_its_line(tmp_path: Path, toy_space_text: str) -> None:
    edits = (("(Schedule):", ":"), ("def stages(", "def steps("))
    message = (
        r"line [0-9]+: schedule: schedule 'last_twice' \(LastTwice\) lacks a method "
        "stages.*, an attribute 'is_control', an attribute 'fresh', an attribute 'taught'"
    )
    with pytest.raises(ValueError, match=message):
        load(tmp_path, toy_space_text, "schedule=LastTwice()", *edits)

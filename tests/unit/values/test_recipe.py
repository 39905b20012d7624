"""Recipes: ids that stay, names from the registers, and options of the similarity that is named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from nas_theseus import Recipe
from nas_theseus.errors import SpaceError, UnknownNameError
from nas_theseus.values.recipe import changed
from nas_theseus.values.registers import SCHEDULES, SIMILARITIES


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "f28f4cb1"),
        (
            {
                "schedule": "kd",
                "similarity": "cka",
                "similarity_options": {"pool": 0, "project": 512},
            },
            "c8339468",
        ),
        (
            {
                "schedule": "progressive",
                "similarity": "dmnn",
                "similarity_options": {"k": 3, "temperature": 0.2, "rows": 100, "examples": "maps"},
            },
            "f86decbf",
        ),
    ],
)
def test_ids_are_those_of_searches_that_were_begun_before(
    settings: dict[str, Any], expected: str
) -> None:
    assert Recipe(**settings).id == expected
    assert Recipe(**settings, divergence_examples=7).id != expected


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_every_registered_name_is_taken_and_held_as_it_is(schedule: str, similarity: str) -> None:
    recipe = Recipe(schedule=schedule, similarity=similarity)
    assert (recipe.schedule, recipe.similarity) == (schedule, similarity)


def test_unknown_names_are_refused_with_those_that_there_are() -> None:
    with pytest.raises(SpaceError) as error:
        changed(Recipe(), ["schedule=zigzag", "similarity=ckaa"])
    first, second = error.value.mistakes
    assert first.startswith("schedule: unknown schedule 'zigzag'; use ")
    assert SCHEDULES.one_of in first
    assert second.startswith("similarity: unknown similarity 'ckaa'; use ")
    assert SIMILARITIES.one_of in second


@dataclass(frozen=True)
class Own:
    name: ClassVar[str] = "own"
    aligned_basis: ClassVar[bool] = False
    minimum_examples: ClassVar[int] = 2

    slope: float = 1.0
    weights: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.slope < 0:
            raise ValueError("slope is negative")

    def prepare(self, guide: Any) -> Any:
        return guide

    def loss(self, features: Any, prepared: Any) -> Any:
        return features


def test_an_object_is_held_as_text_that_reads_back() -> None:
    recipe = Recipe(similarity=Own(slope=2.0))
    name, _, mark = recipe.similarity.partition("@")
    assert name == "own"
    assert len(mark) == 8 and set(mark) <= set("0123456789abcdef")
    again = Recipe(**json.loads(recipe.model_dump_json()))
    assert again == recipe and again.id == recipe.id
    assert SIMILARITIES[again.similarity] == Own(slope=2.0)
    assert Recipe(similarity=Own(slope=2.0)) == recipe
    assert Recipe(similarity=Own(slope=3.0)).id != recipe.id
    # An earlier version stays what it was.
    assert SIMILARITIES[recipe.similarity].slope == 2.0


def test_a_class_stands_for_what_it_makes_without_arguments() -> None:
    assert Recipe(similarity=Own).similarity == Recipe(similarity=Own()).similarity


def test_the_plain_name_is_the_object_that_was_given_last() -> None:
    last = Recipe(similarity=Own(slope=7.0))
    assert changed(Recipe(), ["similarity=own"]).similarity == last.similarity


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"similarity_options": {"k": 3}}, "'regression' has no option k; .* are examples, pool$"),
        (
            {"similarity": "cosine", "similarity_options": {"project": 8, "pol": 1}},
            "'cosine' has no option pol, project; its options are examples, pool$",
        ),
        (
            {"similarity": Own(), "similarity_options": {"slop": 3}},
            "'own@.*' has no option slop; its options are slope, weights$",
        ),
        (
            {"similarity": Own(), "similarity_options": {"slope": -1.0}},
            "'own@.*' refuses slope=-1.0: ValueError: slope is negative$",
        ),
        (
            {"similarity": Own(), "similarity_options": {"weights": {}}},
            "weights must be a finite number, text or boolean, got {}$",
        ),
        (
            {"similarity": Own(), "similarity_options": {"slope": float("nan")}},
            "slope must be a finite number, text or boolean, got nan$",
        ),
    ],
)
def test_options_are_those_of_the_similarity_that_is_named(
    settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=f"(?m){message[:-1]}"):
        Recipe(**settings)


def test_options_of_an_own_similarity_are_part_of_the_id() -> None:
    plain, steep = (
        Recipe(similarity=Own(), similarity_options=options) for options in ({}, {"slope": 4.0})
    )
    assert plain.id != steep.id
    assert steep.similarity_options.given == {"slope": 4.0}
    assert Recipe(**json.loads(steep.model_dump_json())) == steep


def test_zero_means_neither_pooling_nor_projection() -> None:
    recipe = Recipe(similarity="cka", similarity_options={"pool": 0, "project": 0})
    assert recipe.similarity_options.given == {"pool": None, "project": None}


def test_what_follows_from_the_schedule() -> None:
    facts = {
        name: (recipe.is_control, recipe.untouched_by_guide, recipe.taught, recipe.takes_blocks)
        for name in ("sequential", "naive", "scratch", "kd")
        for recipe in [Recipe(schedule=name, library=True)]
    }
    assert facts == {
        "sequential": (False, False, True, True),
        "naive": (True, False, True, False),
        "scratch": (True, True, False, False),
        "kd": (True, True, True, False),
    }
    assert not Recipe(distill=0).taught


def test_a_record_is_read_whether_or_not_its_similarity_is_loaded() -> None:
    values = {"similarity": "elsewhere@01234567", "similarity_options": {"slope": 2.0}}
    recipe = Recipe.from_record(values)
    assert recipe.similarity == "elsewhere@01234567"
    with pytest.raises(ValidationError, match="'elsewhere@01234567' is defined in a space file"):
        Recipe(**values)
    with pytest.raises(UnknownNameError, match="'elsewhere@01234567' is defined in a space file"):
        SIMILARITIES[recipe.similarity]
    with pytest.raises(ValidationError, match="unknown similarity 'elsewhere'"):
        Recipe.from_record({"similarity": "elsewhere"})

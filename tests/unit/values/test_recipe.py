"""Recipes: ids that stay, names from the registers, and options of the similarity that is named."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from nas_theseus import Recipe
from nas_theseus.errors import SpaceError, UnknownNameError
from nas_theseus.values.recipe import ADDED, changed
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


OTHER: dict[str, Any] = {
    "activations_dtype": "bfloat16", "settle_steps": 5, "steps": 7, "micro_batch": 4, "warmup": 0.0,
    "kept_learning_rate": 0.1, "freeze_kept": ("*.mlp", "embed"), "hidden": 0.5,
    "freeze_statistics": True, "precision": "bfloat16", "checkpointing": True,
    "divergence_examples": 7,
}  # fmt: skip


def test_settings_that_came_later_are_in_dumps_only_if_they_are_not_the_default() -> None:
    """So ids, block keys and cells of searches from before are found again."""
    assert OTHER.keys() == ADDED
    plain = Recipe()
    assert not ADDED & plain.model_dump().keys()
    assert not ADDED & plain.alignment.keys() and not ADDED & plain.training.keys()
    assert not ADDED & json.loads(plain.model_dump_json()).keys()
    for name, value in OTHER.items():
        other = Recipe(**{name: value})
        assert other.model_dump() == {**plain.model_dump(), name: value}
        again = Recipe(**json.loads(other.model_dump_json()))
        assert again == other and again.id == other.id
        # Said or not, a default is a default.
        said = Recipe(**{name: getattr(plain, name)})
        assert said.id == plain.id and said.model_dump() == plain.model_dump()
    assert len({Recipe(**{name: value}).id for name, value in OTHER.items()}) == len(OTHER)
    assert changed(Recipe(**OTHER), ["steps=0"]).steps == 0


def test_wrong_values_of_training_are_told_together() -> None:
    with pytest.raises(SpaceError) as error:
        changed(
            Recipe(),
            [
                "steps=-1", "settle_steps=0.5", "micro_batch=0", "warmup=1", "hidden=-1",
                "kept_learning_rate=0", "precision=fp16", "activations_dtype=float16",
                "checkpointing=perhaps", "freeze_kept=3", "freeze_statistics=perhaps",
                "divergence_examples=-1",
            ],
        )  # fmt: skip
    told = {mistake.partition(":")[0]: mistake for mistake in error.value.mistakes}
    assert told.keys() == ADDED
    assert "'auto', 'float32' or 'bfloat16', got 'fp16'" in told["precision"]
    assert told["freeze_kept"].endswith("true, false, or names of the guide's parts, got 3")


@pytest.mark.parametrize(
    ("given", "held"),
    [
        (True, True), (False, False), ([], False), ("*.mlp", ("*.mlp",)), (["a", "b"], ("a", "b")),
    ],
)  # fmt: skip
def test_kept_parts_are_frozen_all_or_by_name(given: object, held: object) -> None:
    assert Recipe(freeze_kept=given).freeze_kept == held  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [[""], [1], None, 1.5, {"a": 1}])
def test_what_names_no_parts_is_refused(given: Any) -> None:
    with pytest.raises(ValidationError, match="parts of the guide|guide's parts"):
        Recipe(freeze_kept=given)


def test_a_rate_of_parts_that_are_all_frozen_is_refused() -> None:
    with pytest.raises(ValidationError, match="kept_learning_rate=0.1 has no effect"):
        Recipe(freeze_kept=True, kept_learning_rate=0.1)
    assert Recipe(freeze_kept=("a",), kept_learning_rate=0.1).freeze_kept == ("a",)


@pytest.mark.parametrize(
    ("changes", "reports", "marks", "steps"),
    [
        ({}, 2.0, [0, 1, 2], 2 * 7),
        ({"epochs": 0.5}, 0.5, [0, 1], 4),
        ({"epochs": 0}, 0, [0], 0),
        ({"steps": 3}, 3, [0, 1, 2, 3], 3),
        ({"steps": 100, "epochs": 0}, 8, [0, 12, 25, 37, 50, 62, 75, 87, 100], 100),
    ],
)
def test_budgets_in_epochs_and_in_steps(
    changes: dict[str, Any], reports: float, marks: list[int], steps: int
) -> None:
    recipe = Recipe(**changes)
    assert recipe.reports == reports
    assert [recipe.mark(report) for report in range(len(marks))] == marks
    assert recipe.steps_over(7 * 128 + 5) == steps


def test_settling_has_a_budget_of_its_own() -> None:
    assert not Recipe(steps=9).settles
    settling = Recipe(steps=9, settle_steps=4, settle_batch_size=8).settling
    assert (settling.steps, settling.batch_size, settling.steps_over(80)) == (4, 8, 4)
    settling = Recipe(steps=9, settle_epochs=0.5, settle_batch_size=8).settling
    assert (settling.steps, settling.steps_over(80)) == (0, 5)


def test_the_guide_teaches_by_logits_or_by_hidden_states() -> None:
    taught = {
        (distill, hidden): (recipe.taught, recipe.guided)
        for distill in (0.0, 0.5)
        for hidden in (0.0, 1.0)
        for recipe in [Recipe(distill=distill, hidden=hidden)]
    }
    assert taught == {
        (0.0, 0.0): (False, False), (0.0, 1.0): (False, True),
        (0.5, 0.0): (True, True), (0.5, 1.0): (True, True),
    }  # fmt: skip
    assert not Recipe(schedule="scratch", hidden=1).guided

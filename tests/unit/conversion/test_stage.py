"""What every schedule gives, what alignment cannot run, and which blocks run again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from nas_theseus import Recipe
from nas_theseus.conversion.stage import Schedule, Stage, one_by_one, runs_from, stages
from nas_theseus.errors import ConversionError, UnknownNameError
from nas_theseus.values.recipe import Order
from nas_theseus.values.registers import SCHEDULES

GOOD = Stage(1, 4, trained=(1, 3), aligned=(1, 3), stitched=3, replaced=(1, 3))


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_member_is_called_as_its_file_and_replaces_nothing_where_nothing_is_new(
    name: str,
) -> None:
    assert SCHEDULES[name].name == name
    assert stages(name, "forward", ()) == []


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("order", ["forward", "reverse"])
def test_all_new_blocks_have_been_replaced_after_the_last_stage(name: str, order: Order) -> None:
    found = stages(name, order, (0, 2, 3))
    if found or not SCHEDULES[name].fresh:
        assert set(found[-1].replaced) == {0, 2, 3}
    assert any(stage.aligned for stage in found) != SCHEDULES[name].is_control


def test_blocks_are_replaced_from_input_to_output_or_back() -> None:
    assert list(one_by_one("forward", (1, 3))) == [(1, (1,)), (3, (1, 3))]
    assert list(one_by_one("reverse", (1, 3))) == [(3, (3,)), (1, (1, 3))]


def test_an_unknown_schedule_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(UnknownNameError, match="'zigzag'; use .*progressive"):
        stages("zigzag", "forward", (1,))


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (replace(GOOD, replaced=(1, 2)), r"names positions \[2\], but .* are at \[1, 3\]"),
        (replace(GOOD, stop=3), r"positions \[3\] outside its chain from 1 to 3"),
        (replace(GOOD, start=2), r"positions \[1\] outside its chain from 2 to 4"),
        (replace(GOOD, trained=(3, 1)), "ascending order"),
        (replace(GOOD, trained=()), "both trained and aligned positions, or neither"),
        (replace(GOOD, aligned=()), "both trained and aligned positions, or neither"),
        (replace(GOOD, trained=(3,), aligned=(1,)), "does not depend on them"),
        ((1, 4), "is not a Stage"),
    ],
)
def test_a_stage_that_alignment_cannot_run_is_refused(stage: object, message: str) -> None:
    class Wrong(Schedule):
        name = "wrong"

        def stages(self, order: Order, replaced: tuple[int, ...]) -> list[Stage]:
            return [GOOD, stage]  # type: ignore[list-item]

    recipe = Recipe(schedule=Wrong())
    with pytest.raises(ConversionError, match=f"'wrong@.*': stage 1 .*{message}"):
        stages(recipe.schedule, recipe.order, (1, 3))


def test_stages_may_come_one_by_one() -> None:
    class Yielding(Schedule):
        name = "yielding"

        def stages(  # type: ignore[override]
            self, order: Order, replaced: tuple[int, ...]
        ) -> Iterator[Stage]:
            yield GOOD

    assert stages(Recipe(schedule=Yielding()).schedule, "forward", (1, 3)) == [GOOD]


def test_a_chain_runs_again_from_the_first_block_that_has_been_trained_since() -> None:
    first = Stage(1, 2, (1,), (1,), 1, (1,))
    assert runs_from(GOOD, None) == 1
    assert runs_from(replace(GOOD, trained=(3,), aligned=(3,)), first) == 1
    third = Stage(1, 5, (4,), (4,), 4, (1, 3, 4))
    assert runs_from(third, replace(GOOD, trained=(3,), aligned=(3,))) == 3
    assert runs_from(replace(third, start=2), GOOD) == 2

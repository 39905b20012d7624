"""Settings: mistakes are reported together; conditions are read."""

from __future__ import annotations

import pytest

from nas_theseus.errors import SpaceError
from nas_theseus.values.conditions import matches, parse_constraint
from nas_theseus.values.recipe import Recipe
from nas_theseus.values.settings import ExecutorSettings, SearchSettings
from nas_theseus.values.validation import validated


def test_all_mistakes_come_together_with_names_and_what_was_given() -> None:
    given = {"name": "../up", "trials": -2, "seed": -1, "unknown": 1}
    with pytest.raises(SpaceError) as caught:
        validated(SearchSettings, given, "search")
    assert len(caught.value.mistakes) == 4
    text = str(caught.value)
    for expected in ("name: '../up'", "trials", "got -2", "seed", "got -1", "unknown"):
        assert expected in text


@pytest.mark.parametrize("name", ["a", "digits-2", "x_1.y"])
def test_names_that_stay_in_their_folder(name: str) -> None:
    assert SearchSettings(name=name).name == name


def test_a_recipe_s_id_follows_its_content() -> None:
    assert Recipe().id == Recipe().id
    assert Recipe(epochs=5).id != Recipe().id


def test_constraints_and_conditions() -> None:
    assert str(parse_constraint("macs <= 2e6")) == "macs <= 2e+06"
    for wrong in ("macs < 2", "macs", "macs <= x", "<= 3"):
        with pytest.raises(ValueError, match="must read|not a number"):
            parse_constraint(wrong)
    row = {"macs": 10, "val_accuracy": 0.9}
    assert matches(row, "macs < 20 and val_accuracy >= 0.9")
    assert not matches(row, "macs < 10")
    with pytest.raises(ValueError, match="unknown name 'mac'"):
        matches(row, "mac < 10")
    with pytest.raises(ValueError, match="must read"):
        matches(row, "macs < 10 or macs > 3")


def test_parallel_is_a_number_or_auto() -> None:
    def parallel(given: str) -> int | None:
        return validated(ExecutorSettings, {"parallel": given}, "search").parallel

    assert parallel("auto") is None
    assert parallel("3") == 3
    for wrong in ("many", "0"):
        with pytest.raises(SpaceError, match=f"parallel: .*got '{wrong}'"):
            parallel(wrong)

"""The warning of a busy machine in the forecast; forecasts themselves are tested in searches."""

from __future__ import annotations

import os

import pytest

from nas_theseus.searches.forecast import busy, duration


@pytest.mark.parametrize(
    ("load", "warned"), [(0.5, False), (6.0, False), (6.1, True), (23.7, True)]
)
def test_only_a_busy_machine_is_warned_of(
    load: float, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    said = busy()
    assert bool(said) == warned
    if warned:
        assert f"{load:.0f} programs on 4 cores" in said


@pytest.mark.parametrize(("seconds", "said"), [(45, "45 s"), (210, "3.5 min"), (7560, "2.1 h")])
def test_durations_as_people_say_them(seconds: float, said: str) -> None:
    assert duration(seconds) == said

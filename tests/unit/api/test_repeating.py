"""A front whose networks are really made again with other seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from filelock import FileLock

import nas_theseus
from nas_theseus.api.repeating import repeat_front
from nas_theseus.errors import StorageError
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front
from nas_theseus.values.outcomes import Evaluation
from tests.unit.searches.test_repeats import Said

INLINE = {"executor": "inline"}


def test_more_seeds_of_a_front_are_run_once_and_resumed(
    toy_space_file: Path, tmp_path: Path
) -> None:
    result = nas_theseus.search(
        toy_space_file, trials=3, storage=tmp_path, trackers=["json-lines"], **INLINE
    )
    folder = SearchFolder(tmp_path, result.name)
    weights, front = set(folder.weights.iterdir()), read_front(folder)
    with FileLock(folder.lock_file), pytest.raises(StorageError, match="already running"):
        repeat_front(folder, 2, Said(), options=INLINE)

    said = Said()
    found = repeat_front(folder, 2, said, options=INLINE)
    assert len(said.lines) == 2 * len(front)
    assert "with other seeds" in folder.report_file.read_text()
    assert found.seeds == (1, 2)
    guide, *others = sorted(found.members, key=lambda one: -one.member.evaluation.cost.macs)
    assert guide.spread is not None and guide.spread.deviation == 0  # the guide is not trained
    for one in others:
        assert one.spread is not None and len(one.spread.values) == 2
    assert read_front(folder) == front and set(folder.weights.iterdir()) == weights

    # Another seed is needed for one member only: the others' files are read.
    lost = folder.evaluations / f"{found.members[0].id}-{front[0].evaluation.recipe}-2.json"
    before = Evaluation.from_json(json.loads(lost.read_text()))
    lost.unlink()
    again = Said()
    assert repeat_front(folder, 2, again, options=INLINE).members == found.members
    assert len(again.lines) == 1
    restored = folder.read_outcome(before.name)
    assert isinstance(restored, Evaluation) and restored.metrics == before.metrics

"""What a search began with: data that change under it are refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.errors import GuideError, SpaceError, StorageError
from nas_theseus.searches.beginning import Beginning, begin, inherit, read_space, refuse_changes
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources
from nas_theseus.tasks import Task, digits
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Cost, Evaluation
from nas_theseus.values.settings import SearchSettings

NOTHING = Sources("mine.py", "")


def space(task: Task, guide_task: Task | None) -> SearchSpace:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    return SearchSpace(
        guide=cut(net, ["0"], (1, 8, 8)), task=task, blocks=[Keep()],
        guide_training=Recipe(), guide_task=guide_task,
    )  # fmt: skip


@pytest.mark.parametrize("guide_task", [None, digits()], ids=["one task", "guide task"])
def test_other_data_for_candidates_are_refused(guide_task: Task | None, tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    settings = SearchSettings(name="kept")
    begun = begin(storage, settings, space(digits(), guide_task), NOTHING)
    assert begin(storage, settings, space(digits(), guide_task), NOTHING) == begun
    with pytest.raises(SpaceError, match="training data changed since"):
        begin(storage, settings, space(digits(seed=1), guide_task), NOTHING)


def test_another_recipe_or_study_is_refused(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    settings = SearchSettings(name="kept")
    first = space(digits(), None)
    begin(storage, settings, first, NOTHING)
    with pytest.raises(SpaceError, match="it began with another recipe"):
        begin(storage, settings, replace(first, recipe=Recipe(epochs=3)), NOTHING)
    elsewhere = settings.model_copy(update={"study_url": "sqlite:///other.db"})
    with pytest.raises(SpaceError, match="it began with another --study"):
        begin(storage, elsewhere, first, NOTHING)


@pytest.mark.parametrize(
    ("name", "begun", "other", "said"),
    [
        ("suggestions", 4, 0, "it began with --suggestions 4, not with --suggestions 0"),
        ("seed", 3, 0, "it began with --seed 3, not with --seed 0"),
        ("sampler", "tpe", "gp", "it began with --sampler tpe, not with --sampler gp"),
        ("rungs", True, False, "it began with rungs"),
        ("rungs", False, True, "it began without rungs"),
        ("library", True, False, "it began with library"),
        ("library", False, "elsewhere", "it began without library"),
    ],
)
def test_a_search_inherits_what_it_began_with_and_refuses_something_else(
    name: str, begun: object, other: object, said: str, tmp_path: Path
) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    settings = SearchSettings(name="kept", **{name: begun})
    found = space(digits(), None)
    with_library = replace(found, recipe=Recipe(library=settings.library is not False))
    begin(storage, settings, with_library, Sources("mine.py", "text"))
    refuse_changes(storage, settings, Sources("mine.py", "text"))
    assert inherit(storage, {"trials": 9, name: None})[name] == begun
    assert inherit(storage, {name: other})[name] == other
    changed = SearchSettings(name="kept", **{name: other})
    with pytest.raises(SpaceError, match=said):
        refuse_changes(storage, changed, Sources("mine.py", "text"))


def test_the_library_may_be_elsewhere_in_a_later_launch(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    with_library = replace(space(digits(), None), recipe=Recipe(library=True))
    begin(storage, SearchSettings(name="kept"), with_library, NOTHING)
    refuse_changes(storage, SearchSettings(name="kept", library="elsewhere"), NOTHING)


def test_every_change_is_reported_together_with_the_difference(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    began = Sources("mine.py", "one\ntwo\n")
    begin(storage, SearchSettings(name="kept"), space(digits(), None), began)
    changed = SearchSettings(name="kept", seed=1, sampler="tpe", library=False)
    with pytest.raises(SpaceError) as refusal:
        refuse_changes(storage, changed, Sources("mine.py", "one\nthree\n"))
    message = str(refusal.value)
    for said in ("3 mistakes", "-two", "+three", "--seed 0", "--sampler theseus"):
        assert said in message


def test_an_edited_search_without_results_may_be_deleted_and_one_with_results_not(
    tmp_path: Path,
) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    settings = SearchSettings(name="kept", library=False)
    begin(storage, settings, space(digits(), None), Sources("mine.py", "one"))
    with pytest.raises(SpaceError, match=f"no result yet: delete {storage.folder} to begin anew"):
        refuse_changes(storage, settings, Sources("mine.py", "two"))
    one = Architecture((BlockChoice(Span(0, 2), "keep"),))
    storage.write_outcome(Evaluation(one, "r", 0, {"val_accuracy": 0.5}, Cost({}), 0, 0.1))
    with pytest.raises(SpaceError, match="choose another --name") as refusal:
        refuse_changes(storage, settings, Sources("mine.py", "two"))
    assert "delete" not in str(refusal.value)


def test_an_edited_module_beside_the_space_file_is_reported_by_name(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    began = Sources("mine.py", "import blocks", (("blocks.py", "A = 1"),))
    settings = SearchSettings(name="kept", library=False)
    begin(storage, settings, space(digits(), None), began)
    refuse_changes(storage, settings, began)
    edited = Sources("mine.py", "import blocks", (("blocks.py", "A = 2"),))
    with pytest.raises(SpaceError, match=r"blocks\.py\n(.*\n)+-A = 1\n\+A = 2"):
        refuse_changes(storage, settings, edited)


def test_a_beginning_is_read_as_it_was_written_also_from_before_there_were_rungs(
    tmp_path: Path,
) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    begun = begin(storage, SearchSettings(name="kept", seed=3), space(digits(), None), NOTHING)
    assert Beginning.read(storage) == begun
    data = json.loads(storage.settings_file.read_text())
    del data["rungs"], data["suggestions"], data["checksum"]
    storage.settings_file.write_text(json.dumps(data))
    assert Beginning.read(storage) == replace(begun, rungs=False, suggestions=0)
    storage.settings_file.write_text('{"seed": 3}')
    with pytest.raises(StorageError, match="settings.json is damaged.*another --name"):
        Beginning.read(storage)


TEXT = """
from torch import nn
from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.tasks import digits


def space():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    training = Recipe(epochs=0.1, distill=0)
    return SearchSpace(cut(net, ["0"], (1, 8, 8)), digits(), [Keep()], guide_training=training)
"""


def test_a_space_is_read_as_the_search_began_with_the_guide_that_it_trained(
    tmp_path: Path,
) -> None:
    storage = SearchFolder(tmp_path, "kept")
    with pytest.raises(StorageError, match="no search 'kept'"):
        read_space(storage, trust_code=True)
    storage.create()
    (tmp_path / "mine.py").write_text(TEXT)
    trained = load_space(tmp_path / "mine.py")
    begin(storage, SearchSettings(name="kept"), trained, Sources("mine.py", TEXT))
    with pytest.raises(StorageError, match="read the code, then add --trust-code"):
        read_space(storage, trust_code=False)
    with pytest.raises(GuideError, match="there is no trained guide at"):
        read_space(storage, trust_code=True)
    prepare_guide(
        trained.guide, trained.task, trained.guide_training, storage.guides, torch.device("cpu")
    )
    untrained = load_space(tmp_path / "mine.py").guide.content_hash()
    found = read_space(storage, trust_code=True)
    assert found.guide.content_hash() == trained.guide.content_hash() != untrained
    assert found.recipe == trained.recipe
    storage.space_file.write_text(TEXT.replace("digits()", "digits(seed=1)"))
    with pytest.raises(StorageError, match="space.py is damaged.*on purpose, delete 'sha256'"):
        read_space(storage, trust_code=True)
    listed = json.loads((storage.folder / "sources.json").read_text())
    del listed["sha256"]
    (storage.folder / "sources.json").write_text(json.dumps(listed))
    with pytest.raises(SpaceError, match="training data changed since"):
        read_space(storage, trust_code=True)


def test_a_new_search_begins_with_the_floor_of_chance(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "new")
    storage.create()
    given = space(digits(), None)
    begun = begin(storage, SearchSettings(name="new"), given, NOTHING)
    assert begun.floor is not None
    assert begun.floor.name == "val_accuracy"
    assert 0.1 <= begun.floor.limit < 0.2
    assert Beginning.read(storage).floor == begun.floor
    assert replace(given, floor=begun.floor).limits == begun.constraints == (begun.floor,)


@pytest.mark.parametrize(
    "changes", [{"beat_chance": False}, {"constraints": ["val_accuracy >= 0.5"]}]
)
def test_a_space_may_want_another_floor_or_none(changes: dict[str, Any], tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "own")
    storage.create()
    given = replace(space(digits(), None), **changes)
    begun = begin(storage, SearchSettings(name="own"), given, NOTHING)
    assert begun.floor is None
    assert begun.constraints == given.limits


def test_a_search_of_before_continues_without_a_floor(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "old")
    storage.create()
    given = replace(space(digits(), None), constraints=["macs <= 1e9"])
    begun = Beginning.of(given, SearchSettings(name="old"))
    begun.write(storage)
    saved = json.loads(storage.settings_file.read_text())
    del saved["checksum"]
    for limit in saved["constraints"]:
        del limit["chance"]  # as it was written before
    storage.settings_file.write_text(json.dumps(saved))
    again = begin(storage, SearchSettings(name="old"), given, NOTHING)
    assert again == begun
    assert again.floor is None

"""What a search began with: data that change under it are refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.convert.guide_training import prepare_guide
from nas_theseus.errors import GuideError, SpaceError, StorageError
from nas_theseus.search.beginning import check_kept, keep_beginning, read_space
from nas_theseus.search.folder import SearchFolder
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources
from nas_theseus.tasks import Task, digits
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
    begun = keep_beginning(storage, settings, NOTHING, space(digits(), guide_task))
    assert keep_beginning(storage, settings, NOTHING, space(digits(), guide_task)) == begun
    with pytest.raises(SpaceError, match="training data changed since"):
        keep_beginning(storage, settings, NOTHING, space(digits(seed=1), guide_task))


def test_a_search_goes_on_with_a_library_or_without_as_it_began(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    settings = SearchSettings(name="kept")
    without = space(digits(), None)
    with_library = replace(without, recipe=Recipe(library=True))
    keep_beginning(storage, settings, NOTHING, with_library)
    with pytest.raises(SpaceError, match="began with the library of converted blocks"):
        keep_beginning(storage, settings, NOTHING, without)


def test_a_search_goes_on_with_the_suggestions_that_it_began_with(tmp_path: Path) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    four = SearchSettings(name="kept", suggestions=4)
    keep_beginning(storage, four, NOTHING, space(digits(), None))
    check_kept(storage, four, NOTHING)
    with pytest.raises(SpaceError, match="began with --suggestions 4, not 0"):
        check_kept(storage, SearchSettings(name="kept"), NOTHING)


@pytest.mark.parametrize(("begun", "how"), [(True, "with"), (False, "without")])
def test_a_search_goes_on_with_rungs_or_without_as_it_began(
    begun: bool, how: str, tmp_path: Path
) -> None:
    storage = SearchFolder(tmp_path, "kept")
    storage.create()
    here, settings = space(digits(), None), SearchSettings(name="kept", rungs=begun)
    identity = keep_beginning(storage, settings, NOTHING, here)
    assert keep_beginning(storage, settings, NOTHING, here) == identity
    other = settings.model_copy(update={"rungs": not begun})
    with pytest.raises(SpaceError, match=f"began {how} rungs"):
        keep_beginning(storage, other, NOTHING, here)


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
    keep_beginning(storage, SearchSettings(name="kept"), Sources("mine.py", TEXT), trained)
    with pytest.raises(StorageError, match="read the code, then add --trust-code"):
        read_space(storage, trust_code=False)
    with pytest.raises(GuideError, match="the trained guide is not in"):
        read_space(storage, trust_code=True)
    prepare_guide(
        trained.guide, trained.task, trained.guide_training, storage.guides, torch.device("cpu")
    )
    untrained = load_space(tmp_path / "mine.py").guide.content_hash()
    found = read_space(storage, trust_code=True)
    assert found.guide.content_hash() == trained.guide.content_hash() != untrained
    assert found.recipe == trained.recipe
    storage.space_file.write_text(TEXT.replace("digits()", "digits(seed=1)"))
    with pytest.raises(SpaceError, match="training data changed since"):
        read_space(storage, trust_code=True)

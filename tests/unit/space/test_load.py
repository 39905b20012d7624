"""Spaces from their sources: errors with file and line, and imports that would not travel."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_theseus.errors import SpaceError
from nas_theseus.space.load import load_space
from nas_theseus.space.sources import Sources, gather

SPACE = """
from mynet import net
from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Keep
from nas_theseus.tasks import digits

def space():
    return SearchSpace(guide=cut(net(), ["0"], (1, 8, 8)), task=digits(), blocks=[Keep()])
"""
NET = """
from torch import nn
def net():
    return nn.Sequential(nn.Conv2d(1, {width}, 3, 1, 1), nn.Flatten(), nn.Linear({size}, 10))
"""


def write(folder: Path, width: int = 4, space: str = SPACE) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "mynet.py").write_text(NET.format(width=width, size=width * 64))
    (folder / "mine.py").write_text(space)
    return folder / "mine.py"


def test_two_folders_with_modules_of_one_name_each_get_their_own(tmp_path: Path) -> None:
    paths = [write(tmp_path / name, width) for name, width in (("a", 4), ("b", 12))]
    for path, width in [*zip(paths, (4, 12), strict=True), (paths[0], 4)]:
        assert load_space(path).guide.boundaries[1].shape == (width, 8, 8)


def test_an_edited_module_is_read_anew_in_the_same_process(tmp_path: Path) -> None:
    path = write(tmp_path, 4)
    load_space(path)
    write(tmp_path, 6)
    assert load_space(path).guide.boundaries[1].shape == (6, 8, 8)


def test_sources_load_where_their_folder_is_not(tmp_path: Path) -> None:
    found = gather(write(tmp_path))
    here = load_space(found)
    moved = load_space(Sources("/nowhere/mine.py", found.text, found.modules))
    assert here.guide.content_hash() == moved.guide.content_hash()


def test_loading_leaves_the_module_path_and_the_random_state_alone(tmp_path: Path) -> None:
    import sys

    before, state = list(sys.path), torch.get_rng_state()
    load_space(write(tmp_path))
    assert sys.path == before and torch.equal(torch.get_rng_state(), state)


def test_an_error_in_a_module_is_reported_with_its_file_and_line(tmp_path: Path) -> None:
    path = write(tmp_path)
    (tmp_path / "mynet.py").write_text("def net():\n    return 1 / 0")
    with pytest.raises(SpaceError, match="- mynet.py, line 2: ZeroDivisionError"):
        load_space(path)
    (tmp_path / "mynet.py").write_text("import no_such_package")
    with pytest.raises(SpaceError, match="- mynet.py, line 1: .*No module named 'no_such_package'"):
        load_space(path)
    write(tmp_path, space=SPACE.replace("from mynet import net", "from mynet import other"))
    with pytest.raises(SpaceError, match="- line 2: .*cannot import name 'other' from 'mynet'"):
        load_space(path)


def test_a_module_from_a_folder_that_the_code_puts_on_the_path_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "far_away.py").touch()
    text = f"import sys\nsys.path.append({str(tmp_path / 'lib')!r})\nimport far_away\n{SPACE}"
    path = write(tmp_path / "space", space=text)
    monkeypatch.setattr(sys, "path", list(sys.path))
    with pytest.raises(SpaceError, match="mine.py imports 'far_away' from .*Move the module"):
        load_space(path)
    sources = Sources(str(path), text, (("mynet.py", NET.format(width=4, size=256)),))
    with pytest.raises(SpaceError, match="far_away"):
        load_space(sources, portable=True)
    load_space(sources)  # a found network loads wherever its modules are found


def test_a_call_that_imports_a_module_of_the_folder_is_refused(tmp_path: Path) -> None:
    text = SPACE.replace("from mynet import net", "import importlib as i") + (
        "\nnet = i.import_module('mynet').net"
    )
    with pytest.raises(SpaceError, match="imports 'mynet' by a call"):
        load_space(write(tmp_path, space=text))

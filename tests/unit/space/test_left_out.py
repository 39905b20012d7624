"""What a space leaves out is listed by the guide's part names, with the reason and the remedy."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from nas_theseus import SearchSpace
from nas_theseus.api import search
from nas_theseus.cli.app import make_app
from nas_theseus.space.left_out import REMEDY, left_out
from nas_theseus.space.load import load_space

FILE = """
import torch
from torch import nn
from nas_theseus import SearchSpace, choice, cut
from nas_theseus.blocks import *
from nas_theseus.tasks import from_datasets

def space():
    size = SIZE
    net = nn.Sequential()
    for name, part in {
        "stem": nn.Conv2d(1, 8, 3, 1, 1), "low": nn.Conv2d(8, 8, 3, 2, 1),
        "same": nn.Conv2d(8, 8, 3, 1, 1), "high": nn.Conv2d(8, 8, 3, 2, 1),
        "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3)),
    }.items():
        net.add_module(name, part)
    data = [(torch.randn(1, *size), i % 3) for i in range(90)]
    return SearchSpace(
        guide=cut(net, ["stem", "low", "same", "high"], (1, *size)),
        task=from_datasets(data, data[:9], (1, *size), 3),
        blocks=[Keep(), BLOCKS],
        CHANGES
    )
"""


def write(folder: Path, size: str, blocks: str, changes: str = 'keep=["head"]') -> Path:
    path = folder / "space.py"
    text = FILE.replace("SIZE", size).replace("BLOCKS", blocks).replace("CHANGES", changes)
    path.write_text(text)
    return path


def space(*given: str) -> SearchSpace:
    with tempfile.TemporaryDirectory() as folder:
        return load_space(write(Path(folder), *given))


def test_whole_strides_leave_nothing_out() -> None:
    found = space("(8, 8)", "Basic(), Depthwise()")
    assert left_out(found) == []
    assert found.count() == 3**4


def test_odd_sizes_name_blocks_parts_reason_and_remedy() -> None:
    found = space("(7, 9)", "Basic(), Depthwise()")
    assert found.count() == 3**2  # it was 3**4 at 8×8
    assert left_out(found) == [
        "blocks basic, depthwise left out of parts low, high: needs a whole stride, but 7×9 is not "
        "a multiple of 4×5; pad the inputs or cut elsewhere",
        REMEDY,
    ]


def test_blocks_with_equal_reasons_are_one_line_and_others_their_own() -> None:
    lines = left_out(space("(7, 9)", "Basic(), Identity(), Bottleneck()"))
    assert lines[0].startswith(
        "blocks basic, bottleneck left out of parts low, high: needs a whole"
    )
    assert lines[1] == (
        "block identity left out of parts stem, low, high: identity needs equal shapes; use "
        "Linear() or Pool() here"
    )
    assert lines[2:] == [REMEDY]


def test_a_block_that_fits_nowhere_says_so_once() -> None:
    (line, _) = left_out(space("(8, 8)", "Basic(), MLP()"))
    assert line.startswith("block mlp fits nowhere: maps features to a vector (D,), not (C,H,W)")


def test_spans_are_listed_only_where_each_of_their_parts_has_another() -> None:
    changes = 'keep=["head"], max_span=2'
    lines = left_out(space("(7, 9)", "Basic()", changes))
    assert lines[0].startswith("block basic left out of parts low, high: needs a whole stride")
    (line, _) = left_out(space("(8, 8)", "Basic(), Pool()", changes))
    assert line.startswith("block pool left out of parts stem, same: pooling needs")


def test_what_the_user_excluded_is_not_reported() -> None:
    blocks = 'Basic().on("stem", "same"), Depthwise().on("same")'
    assert left_out(space("(7, 9)", blocks)) == []


def test_widths_that_a_block_refuses_are_reported() -> None:
    text = """
class Halves(nn.Module):
    def __init__(self, inlet, outlet):
        super().__init__()
        if outlet.width % 2:
            from nas_theseus.errors import ShapeError
            raise ShapeError(f"needs an even width, got {outlet.width}; use other widths")
        self.last = nn.Conv2d(inlet.width, outlet.width, 3, 1, 1)
    def forward(self, x):
        return self.last(x)
"""
    changes = 'keep=["high", "head"], widths=[1.0, 0.375],'
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder), "(8, 8)", 'Linear(), block(Halves).on("stem")', changes)
        known = path.read_text().replace("import SearchSpace", "import block, SearchSpace")
        path.write_text(known + text)
        lines = left_out(load_space(path))
    assert lines[0] == (
        "block halves left out of part stem (width 1 to 3): needs an even width, got 3; use other "
        "widths"
    )


def test_check_prints_them(tmp_path: Path) -> None:
    path = write(tmp_path, "(7, 9)", "Basic(), Depthwise()")
    result = CliRunner().invoke(make_app(), ["check", str(path)], env={"COLUMNS": "300"})
    assert result.exit_code == 0, result.output
    assert "no mistakes; 9 architectures" in result.output
    assert "blocks basic, depthwise left out of parts low, high: needs a whole" in result.output
    assert REMEDY in result.output


def test_a_search_says_them_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class StopError(Exception):
        pass

    def stop(*_: object) -> None:
        raise StopError

    lines: list[str] = []

    class Reporter:
        def say(self, line: str) -> None:
            lines.append(line)

    path = write(tmp_path, "(7, 9)", "Basic()")
    monkeypatch.chdir(tmp_path)
    settings = search.settings_of(path, {"storage": tmp_path / "theseus"}, "search")
    monkeypatch.setattr(search.Launch, "run", stop)
    with pytest.raises(StopError):
        search.run_search(search.gather(path), settings, Reporter())  # type: ignore[arg-type]
    assert lines[0].startswith("block basic left out of parts low, high: needs a whole stride")

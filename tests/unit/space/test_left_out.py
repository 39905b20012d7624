"""What a space leaves out is listed by the guide's part names, with the reason and the remedy."""

from __future__ import annotations

import tempfile
from pathlib import Path

from nas_theseus import SearchSpace
from nas_theseus.space.left_out import REMEDY, left_out
from nas_theseus.space.load import load_space
from tests.unit.space.odd_sizes import write


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

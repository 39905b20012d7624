"""Matrices hold each cell in its place, and their halves are told apart."""

from __future__ import annotations

import json

import pytest

from nas_theseus.stitching.cells import CONTROLS, Cell, Endpoint
from nas_theseus.stitching.matrix import comparison


def cells(rows: int, columns: int) -> list[Cell]:
    return [
        Cell(
            Endpoint("a", trained[0], i), Endpoint("b", trained[1], j),
            quality=0.1 * i + 0.01 * j, start_quality=0.0, cka=0.5, residual=None, seconds=1.0,
        )
        for trained in CONTROLS.values()
        for i in range(1, rows + 1)
        for j in range(1, columns + 1)
    ]  # fmt: skip


def test_cells_stand_in_their_places_and_missing_ones_are_blank() -> None:
    given = cells(2, 3)
    del given[1]
    stranger = Cell(Endpoint("c", True, 1), Endpoint("b", True, 2), 1, 1, 1, None, 1)
    found = comparison([*given, stranger], ("a", "b"), (("s", "t"), ("u", "v", "w")), (0.9, 0.8))
    first, second = found.quality["trained-trained"]
    assert first == [pytest.approx(0.11), None, pytest.approx(0.13)]
    assert second == pytest.approx([0.21, 0.22, 0.23])
    assert found.quality["random-trained"][0][1] == pytest.approx(0.12)
    assert found.means()["cka/random-random"] == 0.5
    assert json.loads(json.dumps(found.to_json()))["rows"] == ["s", "t"]


def test_the_triangle_is_what_a_later_sender_adds() -> None:
    found = comparison(cells(3, 3), ("a", "b"), (("s",) * 3, ("t",) * 3), (1, 1))
    # Quality is 0.1 i + 0.01 j: pairs (i, j) and (j, i) differ by 0.09 (i − j).
    assert found.triangle_difference() == pytest.approx(0.09 * (1 + 2 + 1) / 3)


def test_later_is_by_share_of_the_depth() -> None:
    # Boundary 1 of 2 parts is as deep as boundary 2 of 4: it counts for neither side.
    found = comparison(cells(1, 3), ("a", "b"), (("s",), ("t",) * 3), (1, 1))
    assert found.triangle_difference() == pytest.approx(0.11 - 0.13)
    lone = comparison(cells(1, 1), ("a", "b"), (("s",), ("t",)), (1, 1))
    assert lone.triangle_difference() is None


def test_cells_survive_json() -> None:
    for cell in cells(1, 2):
        assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell

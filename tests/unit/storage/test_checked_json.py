"""JSON with a checksum: any changed value is noticed, files of earlier versions are read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nas_theseus.storage.checked_json import read_checked, write_checked

VALUE = {"name": "é", "numbers": [1, 1.0, 0.1 + 0.2, -0.0, 1e300], "nested": {"b": 1, "a": None}}


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_checked(path, VALUE)
    assert read_checked(path) == VALUE
    assert json.loads(path.read_text()).keys() == VALUE.keys() | {"checksum"}
    write_checked(path, {"tuple": (1, 2)})
    assert read_checked(path) == {"tuple": [1, 2]}


def test_no_flipped_bit_changes_a_value(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    write_checked(path, VALUE)
    whole, noticed = path.read_bytes(), 0
    for place in range(len(whole)):
        for bit in range(8):
            flipped = bytearray(whole)
            flipped[place] ^= 1 << bit
            path.write_bytes(bytes(flipped))
            try:
                found = read_checked(path)
            except ValueError:
                noticed += 1
            else:  # between the values, or in the name of the checksum
                assert {name: found[name] for name in VALUE} == VALUE
    assert noticed > 6 * len(whole)


def test_a_file_without_a_checksum_is_read(tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(json.dumps(VALUE))
    assert read_checked(path) == VALUE


@pytest.mark.parametrize("text", ["", "[1]", "{", '"checksum"', '{"a": 1, "checksum": "0"}'])
def test_what_is_damaged_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "one.json"
    path.write_text(text)
    with pytest.raises(ValueError):
        read_checked(path)

"""A file of JSON lines after kills, a full disk and damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas_theseus.errors import StorageError
from nas_theseus.storage.json_lines import JsonLines


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "new" / "lines.jsonl")
    assert list(file.read()) == []
    for number in range(3):
        file.append({"number": number, "text": "ä\nb"})
    assert list(file.read()) == [{"number": number, "text": "ä\nb"} for number in range(3)]
    assert len(file.path.read_bytes().splitlines()) == 3


@pytest.mark.parametrize("left", [1, 8, 14])
def test_half_a_line_of_a_kill_is_removed_by_the_next(tmp_path: Path, left: int) -> None:
    file = JsonLines(tmp_path / "lines.jsonl")
    file.append({"number": 1})
    whole = file.path.read_bytes()
    torn = b'{"number": 222}\n'[:left]
    file.path.write_bytes(whole + torn)
    file.append({"number": 3})
    assert list(file.read()) == [{"number": 1}, {"number": 3}]
    assert file.path.with_suffix(".torn").read_bytes() == torn


def test_a_file_of_half_a_line_alone_begins_anew(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "lines.jsonl")
    file.path.write_text('{"num')
    file.append({"number": 1})
    assert file.path.read_text() == '{"number":1}\n'


def test_damaged_lines_are_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = JsonLines(tmp_path / "lines.jsonl")
    file.path.write_bytes(b'{"number":1}\n\0\0\0\n[2]\n{"number":3}\n\xff\n')
    assert list(file.read()) == [{"number": 1}, {"number": 3}]
    assert "line 2 is damaged" in caplog.text and "line 3" in caplog.text


def test_numbers_that_json_lacks_are_refused(tmp_path: Path) -> None:
    file = JsonLines(tmp_path / "lines.jsonl")
    with pytest.raises(ValueError, match="not JSON compliant"):
        file.append({"loss": float("nan")})
    assert not file.path.exists()


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match=r"cannot write .*lines\.jsonl.*free some space"):
        JsonLines(tmp_path / "file" / "lines.jsonl").append({})
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match="cannot read"):
        list(JsonLines(tmp_path / "folder").read())


FULL_DISK = """
import json, resource, sys
from pathlib import Path
from nas_theseus.errors import StorageError
from nas_theseus.storage.json_lines import JsonLines

file = JsonLines(Path(sys.argv[1]))
file.append({"number": 1})
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (40, hard))
for _ in range(2):
    try:
        file.append({"text": "x" * 60})
    except StorageError:
        print("full", len(file.path.read_bytes()))
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
file.append({"number": 2})
print(json.dumps(list(file.read())))
"""


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path / "lines.jsonl")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second, found = done.stdout.splitlines()
    assert first == second == "full 13"  # the first line alone
    assert json.loads(found) == [{"number": 1}, {"number": 2}]

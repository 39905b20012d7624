"""Give every reader of files thousands of hostile ones: each must be read, or refused by one error.

    python -m benchmarks.soak_fuzz                            # all kinds
    python -m benchmarks.soak_fuzz --kind pictures --inputs 50
    python -m benchmarks.soak_fuzz --report                   # only write the table

Good files are changed: bits, bytes, lengths, values of JSON, whole files, links in their place.
While they are read, nothing may be executed, and nothing outside their folder be read or written:
an audit hook watches. Memory and time are limited. What ends in anything but a result or an error
of `nas_theseus.errors` is counted as not refused cleanly.
"""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import re
import resource
import select
import shutil
import tempfile
import traceback
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any

import torch

from benchmarks.record import RESULTS, commit, write_record
from benchmarks.soak_fuzz_changes import BYTES, in_place_of, of_json
from benchmarks.soak_fuzz_guard import Guard, limit_memory
from benchmarks.soak_fuzz_kinds import Kind, kinds
from nas_theseus.errors import TheseusError
from nas_theseus.storage.json_lines import JsonLines

ROWS = RESULTS / "soak_fuzz.jsonl"
PAGE = Path(__file__).parents[1] / "docs" / "guides" / "security.md"
BEGIN, END = "<!-- inputs -->", "<!-- end of inputs -->"
_OURS = re.compile("/nas_theseus/|soak_fuzz_(weights|searches|data)")
SILENCE_S = 240  # without a sign of life, a child waits for ever, or hangs in C code


@contextmanager
def silent() -> Iterator[None]:
    """Without what libraries log and print."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def content_of(folder: Path) -> Mapping[str, bytes]:
    """Every file below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def put_back(folder: Path, content: Mapping[str, bytes]) -> None:
    """The good files, and nothing else."""
    shutil.rmtree(folder)
    for name, data in content.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


def change(kind: Kind, folder: Path, names: Sequence[str], random: Random) -> None:
    """Make one or two of the files hostile."""
    for name in random.sample(names, min(len(names), random.choice((1, 1, 1, 2)))):
        path = folder / name
        if kind.links and random.random() < 0.02:
            in_place_of(random, path, folder.parent / "outside" / "secret")
            continue
        data = path.read_bytes()
        for _ in range(random.choice((1, 1, 1, 3))):
            with_json = kind.json and name.endswith((".json", ".jsonl", ".journal"))
            of_values = with_json and random.random() < 0.7
            data = (of_json if of_values else random.choice(BYTES))(random, data)
        if kind.sign is not None and random.random() < 0.7:
            data = kind.sign(data)
        path.write_bytes(data)


def said_of(error: BaseException) -> str:
    """The error, and the line of the product or the benchmark that it came through last."""
    whole = traceback.extract_tb(error.__traceback__)
    frames = [one for one in whole if _OURS.search(one.filename)]
    at = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
    return f"{type(error).__name__} at {at}: {' '.join(str(error).split())[:200]}"


def judge(kind: Kind, folder: Path, guard: Guard) -> str | None:
    """Read the files; returns what was wrong with that."""
    said = None
    try:
        with guard.watching():
            kind.read(folder)
    except TheseusError as error:
        if len(str(error)) > 20_000:
            said = f"a message of {len(str(error)):,} characters"
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # a panic of Rust, or a HangError, is no Exception
        said = said_of(error)
    if guard.noted:
        return f"beyond its files: {guard.noted[0]}"
    return said


def child(kind: Kind, folder: Path, content: Mapping[str, bytes], todo: range, pipe: int) -> None:
    """Try inputs, and send one line of JSON for each to the parent."""
    torch.set_num_threads(1)
    tempfile.tempdir = str(folder.parent / "temporary")
    os.makedirs(tempfile.tempdir, exist_ok=True)
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 2)
    with silent():
        put_back(folder, content)
        kind.read(folder)  # imports what reading imports; the good file is read
        put_back(folder, content)
        names = sorted(str(path.relative_to(folder)) for path in folder.glob(kind.changed)
                       if path.is_file())  # fmt: skip
        guard = Guard((folder, Path(tempfile.gettempdir())), kind.runs)
        limit_memory()
        for number in todo:
            put_back(folder, content)
            random = Random(zlib.crc32(f"{kind.name} {number}".encode()))
            change(kind, folder, names, random)
            said = judge(kind, folder, guard)
            os.write(pipe, json.dumps([number, said]).encode() + b"\n")


def tried(
    kind: Kind, folder: Path, content: Mapping[str, bytes], inputs: int
) -> Iterator[tuple[int, str | None]]:
    """What came of each input; one that ends the process is told as such."""
    number = 0
    while number < inputs:
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(reading)
            try:
                child(kind, folder, content, range(number, min(inputs, number + 250)), writing)
                os._exit(0)
            except BaseException:
                with open(folder.parent / "failed.txt", "w") as file:
                    traceback.print_exc(file=file)
                os._exit(3)
        os.close(writing)
        first = number
        for number_done, said in _lines(reading):
            yield number_done, said
            number = number_done + 1
        os.close(reading)
        if os.waitpid(pid, os.WNOHANG)[0] == 0:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            status = "it never ends"
        else:
            status = "the process ended"
        if number < min(inputs, first + 250):
            if (failed := folder.parent / "failed.txt").exists():
                raise RuntimeError(f"{kind.name}: {failed.read_text()}")
            yield number, status
            number += 1


def _lines(pipe: int) -> Iterator[tuple[int, str | None]]:
    held = b""
    while select.select([pipe], [], [], SILENCE_S)[0]:
        data = os.read(pipe, 1 << 16)
        if not data:
            return
        *lines, held = (held + data).split(b"\n")
        for line in lines:
            yield tuple(json.loads(line))


def fuzz(kind: Kind, inputs: int, folder: Path) -> dict[str, Any]:
    """Try one kind; returns its row."""
    good = folder / "good"
    shutil.rmtree(folder, ignore_errors=True)
    good.mkdir(parents=True)
    kind.make(good)
    content = content_of(good)
    (folder / "outside").mkdir()
    (folder / "outside" / "secret").write_text('{"secret": 1}')
    found: dict[str, list[int]] = {}
    for number, said in tried(kind, good, content, inputs):
        if said is not None:
            found.setdefault(said, []).append(number)
            if len(found[said]) == 1:
                print(f"  {number}: {said}", flush=True)
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "kind": kind.name,
        "tried": inputs,
        "found": sum(map(len, found.values())),
        "peak_mb": round(children.ru_maxrss / 1024),
        "messages": {said[:300]: len(numbers) for said, numbers in found.items()},
        "commit": commit(),
    }


def latest(rows: Sequence[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Rows by kind, oldest first."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        found.setdefault(row["kind"], []).append(row)
    return found


def _faults(row: Mapping[str, Any]) -> int:
    """Inputs that were not refused cleanly, without those that turned out to be the benchmark's."""
    return int(row["found"] - row.get("not_faults", 0))


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the figures and the table: what was first found in each kind, and what is left."""
    by_kind = latest(rows)
    lines = ["| kind | inputs | not refused cleanly, then mended | left |", "|---|---|---|---|"]
    summary = {}
    for name in sorted(by_kind):
        given = by_kind[name]
        last = given[-1]
        summary[name] = {
            # The same number is the same input, so one that is tried again counts once.
            "tried": max(row["tried"] for row in given),
            "found": (found := max(map(_faults, given))),
            "mended": found - _faults(last),
            "left": _faults(last),
        }
        one = summary[name]
        lines.append(f"| {name} | {one['tried']:,} | {one['mended']:,} | {one['left']} |")
    figures = {
        "inputs_fuzzed": sum(one["tried"] for one in summary.values()),
        "inputs_not_refused_cleanly": sum(one["left"] for one in summary.values()),
        "found": sum(one["found"] for one in summary.values()),
        "mended": sum(one["mended"] for one in summary.values()),
    }
    cells = [{"kind": name, **one} for name, one in summary.items()]
    notes = {
        "cells": "one a kind, over all runs; each run is a line of soak_fuzz.jsonl, where "
        "not_faults counts what was the benchmark's own fault"
    }
    path = write_record("soak_fuzz", figures, cells, [0], notes, ("torch", "transformers"))
    data = json.loads(path.read_text())
    data["kinds"] = summary
    path.write_text(json.dumps(data, indent=1))
    before_table, _, rest = PAGE.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    PAGE.write_text("\n".join([before_table + BEGIN, *lines, END]) + after)


def main() -> None:
    """Fuzz, or only report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kind", action="append", help="default: every kind")
    parser.add_argument("--inputs", type=int, help="of each kind; default: its own number")
    parser.add_argument("--rows", type=Path, default=ROWS)
    parser.add_argument("--report", action="store_true", help="only write the table")
    given = parser.parse_args()
    rows = JsonLines(given.rows)
    if not given.report:
        with tempfile.TemporaryDirectory(prefix="soak-fuzz-") as folder:
            for kind in kinds():
                if given.kind and kind.name not in given.kind:
                    continue
                print(f"{kind.name}:", flush=True)
                row = fuzz(kind, given.inputs or kind.inputs, Path(folder) / "kind")
                print(f"  {row['found']} of {row['tried']}", flush=True)
                rows.append(row)
    if given.rows == ROWS:
        report([*rows.read()])


if __name__ == "__main__":
    main()

"""Changes of good files into hostile ones: of bytes, of JSON, and of what a name stands for."""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypeAlias

Change: TypeAlias = Callable[[Random, bytes], bytes]

DEEP = 100_000
# Values that no reader expects where they come to stand.
ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.5, -0.0, 1e308, 5e-324,
    float("nan"), float("inf"), float("-inf"), "", " ", "\0", "a\nb", "../../../secret",
    "/etc/passwd", "..", "C:\\x", "%s%n{0}", "${HOME}", "x" * 10_000, "\ud800", "\U0001f600",
    "\u202e", "ä", "nan", "1e999", "0x10", [], {}, [[]], [None], {"": None}, [{}] * 3, {"a": {}},
    [1, 2], [float("nan")],
)  # fmt: skip
INTEGERS = (0, 1, 2**16 - 1, 2**31 - 1, 2**32 - 1, 2**63 - 1, 2**64 - 1)


class Payload:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, target: str) -> None:
        self.target = target

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.target,)


def flip(random: Random, data: bytes) -> bytes:
    """Some bits are others."""
    changed = bytearray(data or b"\0")
    for _ in range(random.choice((1, 1, 2, 8, 64))):
        changed[random.randrange(len(changed))] ^= 1 << random.randrange(8)
    return bytes(changed)


def cut(random: Random, data: bytes) -> bytes:
    """The end is missing."""
    return data[: random.randrange(len(data) + 1)]


def cut_out(random: Random, data: bytes) -> bytes:
    """Something in between is missing."""
    begin, end = _range(random, data)
    return data[:begin] + data[end:]


def double(random: Random, data: bytes) -> bytes:
    """Something is there twice, or fifty times."""
    begin, end = _range(random, data)
    return data[:end] + data[begin:end] * random.choice((1, 1, 2, 50)) + data[end:]


def swap(random: Random, data: bytes) -> bytes:
    """Two neighbours are exchanged."""
    a, b = _range(random, data)
    c = random.randrange(b, len(data) + 1)
    return data[:a] + data[b:c] + data[a:b] + data[c:]


def fill(random: Random, data: bytes) -> bytes:
    """Something is zeros, ones, blanks, nines or brackets."""
    begin, end = _range(random, data)
    return data[:begin] + random.choice((b"\0", b"\xff", b" ", b"9", b"[")) * (end - begin) + data[
        end:
    ]  # fmt: skip


def noise(random: Random, data: bytes) -> bytes:
    """Something is random."""
    begin, end = _range(random, data)
    return data[:begin] + random.randbytes(end - begin) + data[end:]


def number(random: Random, data: bytes) -> bytes:
    """A length somewhere, such as one in a header, is another."""
    size = random.choice((2, 4, 8))
    at = random.randrange(max(1, len(data) - size))
    value = random.choice(INTEGERS) % (1 << 8 * size)
    order = random.choice(("little", "big"))
    return data[:at] + value.to_bytes(size, order) + data[at + size :]  # type: ignore[arg-type]


def digits(random: Random, data: bytes) -> bytes:
    """A number in a text is a huge one, or none."""
    places = [at for at, byte in enumerate(data[:100_000]) if 48 <= byte <= 57]
    if not places:
        return noise(random, data)
    at = random.choice(places)
    given = (b"99999999999999999999", b"-1", b"1e999", b"NaN", b"Infinity", b"9" * 5_000, b"")
    return data[:at] + random.choice(given) + data[at + 1 :]


def whole(random: Random, data: bytes) -> bytes:
    """Something else altogether."""
    del data
    return random.choice(
        (b"", b"\0", b"{}", b"[]", b"null", b"NaN", b"1", b'""', b"[" * DEEP, b'{"a":' * DEEP,
         b"{" * 50, b"\xff\xfe", b"\xef\xbb\xbf{}", b"PK\x03\x04", b"\x1f\x8b\x08" + b"\0" * 40,
         b"GGUF" + b"\xff" * 40, b"\x93NUMPY\x01\x00" + b"\xff" * 40, b"9" * 10_000,
         b"\xff" * 8 + b"{}", b"\0" * 100_000,
         pickle.dumps(Payload("ran-from-a-pickle")))
    )  # fmt: skip


def _range(random: Random, data: bytes) -> tuple[int, int]:
    begin = random.randrange(len(data) + 1)
    return begin, min(len(data), begin + random.choice((1, 4, 16, 100, len(data))))


BYTES: tuple[Change, ...] = (flip, flip, cut, cut_out, double, swap, fill, noise, number, number,
                             digits, whole)  # fmt: skip


def of_json(random: Random, data: bytes) -> bytes:
    """One value of a JSON text, or of one of its lines, is something else, doubled or missing."""
    lines = data.splitlines() if data.count(b"\n{") > 2 else [data]
    at = random.randrange(len(lines))
    try:
        value = json.loads(lines[at])
    except (ValueError, RecursionError):
        return random.choice(BYTES)(random, data)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        value = change_value(random, value)
    text = json.dumps(value).encode()
    if random.random() < 0.03:  # deeper than json.dumps itself can write
        text = text.replace(b"null", b"[" * DEEP + b"]" * DEEP, 1)
    return b"\n".join([*lines[:at], text, *lines[at + 1 :]]) + b"\n"


def change_value(random: Random, value: Any) -> Any:
    """The same value with one change somewhere inside."""
    if isinstance(value, dict) and value and random.random() < 0.9:
        name = random.choice([*value])
        return _change_item(random, dict(value), name)
    if isinstance(value, list) and value and random.random() < 0.9:
        at = random.randrange(len(value))
        what = random.random()
        if what < 0.1:
            return [*value[:at], *value[at + 1 :]]
        if what < 0.2:
            return [*value[:at], value[at], *value[at:]]
        return [*value[:at], change_value(random, value[at]), *value[at + 1 :]]
    return random.choice(ODD)


def _change_item(random: Random, held: dict[str, Any], name: str) -> dict[str, Any]:
    what = random.random()
    if what < 0.1:
        del held[name]
    elif what < 0.2:
        odd = [one for one in ODD if isinstance(one, str)]
        held[random.choice(odd)] = held.pop(name)
    elif what < 0.25:
        held[random.choice(("x", "__class__", "self"))] = random.choice(ODD)
    else:
        held[name] = change_value(random, held[name])
    return held


def in_place_of(random: Random, path: Path, outside: Path) -> None:
    """Something that is no file of its own stands there: a link, a folder, a pipe, nothing."""
    path.unlink()
    what = random.choice(("link", "loop", "folder", "pipe", "nothing"))
    if what == "link":
        path.symlink_to(outside)
    elif what == "loop":
        path.symlink_to(path.name)
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)

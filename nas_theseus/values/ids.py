"""What names things: ids and seeds made of values, and what a search may be called."""

from __future__ import annotations

import hashlib
import json
import re

# What names a search, and its folder: no path leads out of it.
SEARCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def canonical_json(value: object) -> str:
    """One text for one value: sorted keys, no spaces; what ids and hashes are made of."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: object, length: int = 12) -> str:
    """First `length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def derive_seed(*names: object) -> int:
    """A 31-bit seed from names alone, so that it never depends on the order of arrival."""
    return int(short_hash([str(name) for name in names], 8), 16) & 0x7FFFFFFF

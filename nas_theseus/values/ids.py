"""Ids and seeds derived from values, and valid names of searches."""

from __future__ import annotations

import hashlib
import json
import re

# Valid names of a search and its folder: none leads out of the storage folder.
SEARCH_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def canonical_json(value: object) -> str:
    """Unique JSON text of a value, with sorted keys and without spaces, for ids and hashes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def short_hash(value: object, length: int = 12) -> str:
    """First `length` hexadecimal digits of the SHA-256 of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:length]


def derive_seed(*names: object) -> int:
    """A 31-bit seed derived from names alone, so that it does not depend on any order of calls."""
    return int(short_hash([str(name) for name in names], 8), 16) & 0x7FFFFFFF

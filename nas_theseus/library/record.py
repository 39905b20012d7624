"""Record of a converted block in the library, with checks that detect damage."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime

from torch import Tensor, nn

from nas_theseus.blocks.family import last_map
from nas_theseus.errors import LibraryError
from nas_theseus.library.block_key import BlockKey
from nas_theseus.storage.json_files import MALFORMED, parse_json
from nas_theseus.values.ids import short_hash

# Facts that earlier versions did not have.
_SCORES = ("contribution_error", "divergence")


class DamagedEntry(LibraryError):
    """An entry is damaged; it is moved aside and the block converted again."""


@dataclass(frozen=True)
class Facts:
    """Result and effort of converting a block.

    Attributes:
        similarity: similarity to the guide at the end of alignment, by the recipe's measure.
        residual: the block's error: share of the guide's variance at its outlet that it leaves
            unexplained in the guide's basis; 0 if it explains all, above 1 if a skip harms.
        steps: number of optimiser steps.
        macs: multiply-adds of the conversion, with those of the divergence.
        seconds: wall time of the conversion, with that of the divergence.
        device: cpu or cuda; results are bit-equal on one kind of machine only.
        contribution_error: the block's error relative to what the replaced parts add to their input
            (`conversion.fitting.relative_to_contribution`). None if the shape changes, at other
            widths than the guide's, and in records of earlier versions.
        divergence: divergence of the guide's outputs with this one block in it, on validation data
            (`conversion.divergence`). Behind channels of the guide that were left out, what it adds
            to the divergence that their loss has alone. None if it was not measured.
        divergence_macs: multiply-adds of the divergence.
    """

    similarity: float
    residual: float
    steps: int
    macs: int
    seconds: float
    device: str
    contribution_error: float | None = None
    divergence: float | None = None
    divergence_macs: int = 0


@dataclass(frozen=True)
class Record:
    """The JSON beside a block's weights.

    Attributes:
        sha256, size_bytes: hash and size of the weights file.
        version: version of the package that converted the block.
        created: time in UTC, ISO 8601.
    """

    key: BlockKey
    facts: Facts
    sha256: str
    size_bytes: int
    version: str
    created: str

    @property
    def weights(self) -> str:
        """Name of the weights file."""
        return f"{self.key.id}.{self.sha256[:16]}.safetensors"

    @property
    def made(self) -> datetime:
        return datetime.fromisoformat(self.created)

    def to_bytes(self) -> bytes:
        content = asdict(self) | {"key": self.key.to_json()}
        content["checksum"] = short_hash(content, 16)
        return json.dumps(content, indent=1, allow_nan=False).encode()

    def _check(self) -> None:
        """Raise ValueError for values that this package never writes.

        The hash becomes part of a file name, which must not lead out of the library, and the
        estimate learns from the facts.
        """
        facts = asdict(self.facts)
        device = facts.pop("device")
        unknown = {name for name in _SCORES if facts[name] is None}
        numbers = [*(facts[name] for name in facts.keys() - unknown), self.size_bytes]
        if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise ValueError("a fact is not a finite number")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256) or self.size_bytes < 0:
            raise ValueError("the SHA-256 or size is invalid")
        if (
            not all(isinstance(text, str) for text in (device, self.version))
            or not self.made.tzinfo
        ):
            raise ValueError("the version, device or time is invalid")

    @classmethod
    def from_bytes(cls, text: bytes) -> Record:
        """The inverse of `to_bytes`.

        Raises:
            DamagedEntry: the text is not a record, or its checksum does not match.
        """
        try:
            content = parse_json(text)
            if content.pop("checksum") != short_hash(content, 16):
                raise DamagedEntry("the record's checksum does not match")
            key, facts = BlockKey.from_json(content.pop("key")), Facts(**content.pop("facts"))
            record = cls(key, facts, **content)
            record._check()
            return record
        except MALFORMED as error:
            raise DamagedEntry(f"the record cannot be read: {error!r}") from error


def misfit(state: Mapping[str, Tensor], block: nn.Module) -> str | None:
    """How tensors differ from a block's own in names, shapes or types; None if they fit.

    A last linear map without bias may have gained one when its stitch was folded in.
    """
    expected = {name: (tuple(t.shape), t.dtype) for name, t in block.state_dict().items()}
    found = {name: (tuple(t.shape), t.dtype) for name, t in state.items()}
    last = last_map(block)
    if last is not None and last.bias is None and "last.bias" in found:
        expected["last.bias"] = ((last.weight.shape[0],), last.weight.dtype)
    wrong = sorted(
        name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)
    )
    if not wrong:
        return None
    name = wrong[0]
    return (
        f"{len(wrong)} tensors do not fit {type(block).__name__}; the first is {name}: found "
        f"{found.get(name)}, expected {expected.get(name)}"
    )

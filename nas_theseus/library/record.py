"""What the library knows of a converted block, and how damage shows."""

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
from nas_theseus.values.ids import short_hash


class DamagedEntry(LibraryError):
    """An entry that cannot be trusted; it is set aside and made again."""


@dataclass(frozen=True)
class Facts:
    """How a block came out.

    Attributes:
        similarity: to the guide, by the recipe's measure, when alignment ended.
        residual: the block's error: share of the guide's variance at its outlet that it leaves
            unexplained in the guide's basis; 0 when all is explained, above 1 when a skip harms.
        steps: of the optimiser.
        macs: multiply-adds spent on making it.
        seconds: wall time of making it.
        device: cpu or cuda; bits are equal on one kind of machine only.
    """

    similarity: float
    residual: float
    steps: int
    macs: int
    seconds: float
    device: str


@dataclass(frozen=True)
class Record:
    """The JSON beside a block's weights.

    Attributes:
        sha256, size_bytes: of the weights file.
        version: of the package that made it.
        created: UTC, ISO 8601.
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
        """Raise ValueError for what no writer of ours writes.

        The hash becomes part of a file's name, which must not lead out of the library, and the
        facts are learnt from.
        """
        facts = asdict(self.facts)
        device = facts.pop("device")
        numbers = [*facts.values(), self.size_bytes]
        if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
            raise ValueError("a fact is no finite number")
        if not re.fullmatch("[0-9a-f]{64}", self.sha256) or self.size_bytes < 0:
            raise ValueError("no SHA-256 or size")
        if (
            not all(isinstance(text, str) for text in (device, self.version))
            or not self.made.tzinfo
        ):
            raise ValueError("a version, device or time is none")

    @classmethod
    def from_bytes(cls, text: bytes) -> Record:
        """The inverse of `to_bytes`.

        Raises:
            DamagedEntry: anything else.
        """
        try:
            content = json.loads(text, parse_constant=_no_number)
            if content.pop("checksum") != short_hash(content, 16):
                raise DamagedEntry("the record's checksum does not match")
            key, facts = BlockKey.from_json(content.pop("key")), Facts(**content.pop("facts"))
            record = cls(key, facts, **content)
            record._check()
            return record
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DamagedEntry(f"the record cannot be read: {error!r}") from error


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def misfit(state: Mapping[str, Tensor], block: nn.Module) -> str | None:
    """How tensors differ from a block's own in names, shapes or types; None when they fit.

    A last map without bias may have got one from its stitch.
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
        f"{len(wrong)} tensors are not those of {type(block).__name__}, first {name}: found "
        f"{found.get(name)}, expected {expected.get(name)}"
    )

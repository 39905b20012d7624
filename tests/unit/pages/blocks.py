"""The fenced blocks of README, tutorial and guides, and what becomes of each.

A block that is not run carries `<!-- not run: REASON -->` on the line before it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]
PAGES = [
    ROOT / "README.md",
    ROOT / "docs" / "index.md",
    ROOT / "docs" / "tutorial.md",
    *sorted((ROOT / "docs" / "guides").glob("*.md")),
]
FENCE = re.compile(
    r"^(?:<!-- (?P<mark>not run)(?:: (?P<reason>[^>]+?))? -->\n)?"
    r"```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)
# What makes Python slow: it searches, or needs what a search has found.
NEEDS_A_SEARCH = re.compile(
    r"nas_theseus\.(?:search|convert|switch)\(|searches/|SearchFolder\(|\bmlflow\."
)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text, and why it is not run, if so."""

    page: str
    line: int
    language: str
    text: str
    left_out: bool = False
    reason: str | None = None

    @property
    def slow(self) -> bool:
        """Whether only the slow tests run it."""
        return bool(NEEDS_A_SEARCH.search(self.text))

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def plain(self) -> dict[str, Any]:
        """The block as JSON holds it."""
        return asdict(self) | {"slow": self.slow}


def blocks_of(page: Path, text: str | None = None) -> Iterator[Block]:
    """The blocks of a page, from the first to the last."""
    text = page.read_text(encoding="utf-8") if text is None else text
    name = page.relative_to(ROOT).as_posix()
    for found in FENCE.finditer(text):
        line = text[: found.start("text")].count("\n") + 1
        left_out = found["mark"] is not None
        yield Block(name, line, found["language"], found["text"], left_out, found["reason"])


def fences(page: Path) -> int:
    """Fences of a page, two for each block, however they are written."""
    return len(re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]

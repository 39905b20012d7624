"""The fenced blocks of README, tutorial and guides, with the marks before them.

A block that is not run carries `<!-- not run: REASON -->` on the line before it; one that is run by
the slow tests only, `<!--slow-->`.
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
    r"^(?:<!-- ?(?P<mark>not run|slow)(?:: (?P<reason>[^>]+?))? ?-->\n)?"
    r"```(?P<language>[^\n]*)\n(?P<text>.*?)^```$",
    re.DOTALL | re.MULTILINE,
)


@dataclass(frozen=True)
class Block:
    """A fenced block: where it is, its language, its text and its mark."""

    page: str
    line: int
    language: str
    text: str
    mark: str | None
    reason: str | None

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def plain(self) -> dict[str, Any]:
        return asdict(self)


def blocks_of(page: Path, text: str | None = None) -> Iterator[Block]:
    """The blocks of a page, from the first to the last."""
    text = page.read_text(encoding="utf-8") if text is None else text
    name = page.relative_to(ROOT).as_posix()
    for found in FENCE.finditer(text):
        line = text[: found.start("text")].count("\n") + 1
        yield Block(
            name, line, found["language"], found["text"], found["mark"], found["reason"]
        )


def fences(page: Path) -> int:
    """Fences of a page, two for each block, however they are written."""
    return len(re.findall(r"^ *(?:```|~~~)", page.read_text(encoding="utf-8"), re.MULTILINE))


BLOCKS = [block for page in PAGES for block in blocks_of(page)]

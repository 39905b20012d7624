"""A small tokenizer and texts for tests of text in tokens."""

from __future__ import annotations

from pathlib import Path

import pytest

LINE = "the quick brown fox jumps over the lazy dog, and {} comes after {}.\n"


def text(lines: int, first: int = 0) -> str:
    return "".join(LINE.format(n + 1, n) for n in range(first, first + lines))


def make_tokenizer(path: Path, vocabulary: int = 300) -> Path:
    """A byte-level pair encoding as GPT-2's, with one special token."""
    tokenizers = pytest.importorskip("tokenizers", reason="the optional extra text is missing")
    learnt = tokenizers.ByteLevelBPETokenizer()
    learnt.train_from_iterator(
        text(60).splitlines(keepends=True),
        vocab_size=vocabulary,
        special_tokens=["<|end|>"],
        show_progress=False,
    )
    learnt.save(str(path))
    return path

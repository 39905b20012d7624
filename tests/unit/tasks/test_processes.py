"""Hashes and orders are the same in another process: what caches and repeated runs rely on."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nas_theseus.tasks import digits, text_file

SCRIPT = """
import sys
from nas_theseus.tasks import digits, text_file
path = sys.argv[1]
print(digits().data_hash())
print(next(digits().batches("train", 32, seed=5)).targets.tolist())
print(text_file(path, context=8).data_hash())
print(text_file(path, level="bpe", context=8, vocabulary=300).data_hash())
"""


def test_hashes_and_orders_are_the_same_in_another_process(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the optional extra text is not installed")
    path = tmp_path / "corpus.txt"
    # Many pairs are equally frequent: ties must not be broken by a process's own hash seed.
    path.write_text("".join(f"{n} and {n * 7919 % 1009} make it. " for n in range(400)))
    printed = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert printed == [
        digits().data_hash(),
        str(next(digits().batches("train", 32, seed=5)).targets.tolist()),
        text_file(path, context=8).data_hash(),
        text_file(path, level="bpe", context=8, vocabulary=300).data_hash(),
    ]

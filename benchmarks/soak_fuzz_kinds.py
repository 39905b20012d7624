"""Kinds of files that people are sent: how a good one is made, and how the product reads it.

Readers raise `AssertionError` where a result is silently wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from benchmarks import soak_fuzz_data as data
from benchmarks import soak_fuzz_searches as searches
from benchmarks import soak_fuzz_weights as weights

Make: TypeAlias = Callable[[Path], None]
Read: TypeAlias = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """One kind of file.

    Attributes:
        make: writes good files into an empty folder.
        read: reads them as the product does; raises an error of `nas_theseus.errors`, or returns.
        changed: pattern of the files that are changed.
        inputs: how many are tried.
        json: whether values of JSON are changed as well as bytes.
        sign: makes checksums right again.
        runs: whether code in the folder may run, to which the user has consented.
        links: whether a link, a folder or a pipe may stand in place of a file.
    """

    name: str
    make: Make
    read: Read
    inputs: int
    changed: str = "*"
    json: bool = False
    sign: Callable[[bytes], bytes] | None = None
    runs: bool = False
    links: bool = False


def kinds() -> Iterator[Kind]:
    """Every kind."""
    yield Kind("safetensors weights", weights.make_safetensors, weights.read_weights_file, 4000)
    yield Kind("torch checkpoints", weights.make_checkpoint, weights.read_weights_file, 3000)
    yield Kind(
        "torch checkpoints before 1.6", weights.make_old_checkpoint, weights.read_weights_file, 2000
    )
    yield Kind(
        "checkpoints of a training",
        weights.make_training,
        weights.read_training,
        2000,
        sign=weights.sign_training,
    )
    yield Kind(
        "stored activations",
        weights.make_guide_work,
        weights.read_guide_work,
        3000,
        changed="*.npy",
        links=True,
    )
    yield Kind("folders of language models", weights.make_llama, weights.read_llama, 600, json=True)
    yield Kind("GGUF files", weights.make_gguf, weights.read_gguf, 600)
    yield Kind("folders of vision models", weights.make_vit, weights.read_vit, 600, json=True)
    yield Kind(
        "library records",
        weights.make_library,
        weights.read_library,
        4000,
        "library/blocks-1/*.json",
        json=True,
        sign=weights.sign_record,
        links=True,
    )
    yield Kind(
        "library weights",
        weights.make_library,
        weights.read_library,
        2000,
        "library/blocks-1/*.safetensors",
        links=True,
    )
    yield Kind(
        "results and records of a search",
        searches.searched,
        searches.read_records,
        4000,
        "theseus/searches/small/**/*.json*",
        json=True,
        links=True,
    )
    yield Kind(
        "reports",
        searches.searched,
        searches.read_report,
        200,
        "theseus/searches/small/**/*.json",
        json=True,
    )
    yield Kind(
        "journals",
        searches.searched,
        searches.read_journal,
        2000,
        "theseus/searches/small/study.journal",
        json=True,
        runs=True,
    )
    yield Kind(
        "found networks",
        searches.searched,
        searches.read_found,
        1500,
        "theseus/searches/small/front/*/[!s]*",
        json=True,
        runs=True,
    )
    yield Kind(
        "architectures, names and settings",
        searches.make_architecture,
        searches.read_names,
        4000,
        "*.*",
        json=True,
    )
    yield Kind(
        "tokenizers", data.make_tokenizer, data.read_tokens, 1500, "tokenizer.json", json=True
    )
    yield Kind(
        "caches of tokens", data.make_cached, data.read_tokens, 1500, "cache/tokens*.*", json=True
    )
    yield Kind("texts and questions", data.make_questions, data.read_text_files, 4000, json=True)
    yield Kind("pictures", data.make_pictures, data.read_pictures, 4000)
    yield Kind("tar files", data.make_tar, data.read_tar, 4000)
    yield Kind(
        "Arrow and Parquet tables", data.make_tables, data.read_tables, 3000, "**/*.*", json=True
    )
    yield Kind("idx files", data.make_idx, data.read_idx_files, 1000)
    yield Kind(
        "cells of a comparison",
        searches.make_cell,
        searches.read_cell,
        3000,
        "cells/*.json",
        json=True,
    )
    yield Kind("stitchable networks", searches.make_stitchable, searches.read_stitchable, 1500)
    yield Kind("runtime environments", searches.make_environment, searches.read_environment, 1000)

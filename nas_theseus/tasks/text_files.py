"""Language modelling of texts of any size, in the tokens of a pretrained model."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, TypeAlias, Unpack

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import OwnMetric
from nas_theseus.tasks.next_token import NextTokenTask
from nas_theseus.tasks.task import SPLITS, Device, Digest, Split, Splits, shuffled
from nas_theseus.tasks.task_options import SourceOptions
from nas_theseus.tasks.text_sources import TextSource, listed, located
from nas_theseus.tasks.token_cache import TokenCache, Tokens, default_cache
from nas_theseus.tasks.tokenizing import (
    load_tokenizer,
    token_bytes,
    tokenizer_file,
    vocabulary_size,
)
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed

Given: TypeAlias = str | Path | Sequence[str | Path]

PATTERNS = ("*.txt", "*.md", "*.rst", "*.parquet")
_TRAIN_SHARE, _VALIDATION_SHARE = 0.90, 0.05


class TextFilesOptions(SourceOptions, total=False):
    """Of `text_files`.

    Attributes:
        pattern: names of the files that are read in a folder, one pattern or several. Default:
            ``*.txt``, ``*.md``, ``*.rst`` and ``*.parquet``.
        column: column of the text in Parquet files and saved data sets. Default: "text".
        separator: a token of the tokenizer that is put behind each document (a file, or a row of a
            table), such as ``<|endoftext|>``. Default: nothing.
        tokens: largest number of tokens of each split, such as ``{"train": 1_000_000}``.
        vocabulary: number of the guide's outputs where it has more than the tokenizer has tokens,
            since many models round it up. Default: the tokenizer's.
        cache: folder for the tokens. Default: ``~/.cache/nas-theseus``.
    """

    pattern: str | Sequence[str]
    column: str
    separator: str | None
    tokens: Mapping[Split, int] | None
    vocabulary: int | None
    cache: str | Path | None


@dataclass(frozen=True, eq=False)
class MappedExamples:
    """Windows of tokens on disk; only those of a batch are in memory.

    Attributes:
        tokens: those of the file.
        start, stop: part of the tokens that the windows are cut from.
        context: tokens a network sees at once. Neighbouring windows share one token, the last
            target of the first one.
        seed: shuffles the windows; None for their order in the text.
    """

    tokens: Tokens
    start: int
    stop: int
    context: int
    seed: int | None = None
    indexed: ClassVar[bool] = False

    def __len__(self) -> int:
        return max(0, self.stop - self.start - 1) // self.context

    @cached_property
    def _order(self) -> Tensor | None:
        return None if self.seed is None else shuffled(len(self), self.seed)

    @cached_property
    def windows(self) -> npt.NDArray[Any]:
        """A view of the tokens on disk, (N, context + 1), in the order of the text."""
        part = self.tokens.mapped[self.start : self.stop]
        whole = np.lib.stride_tricks.sliding_window_view(part, self.context + 1)
        return whole[:: self.context]

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets (B, context), int64."""
        own = self._order
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size].cpu()
            if own is not None:
                chosen = own[chosen]
            tokens = torch.from_numpy(self.windows[chosen.numpy()].astype(np.int64)).to(device)
            yield tokens[:, :-1], tokens[:, 1:]

    def update(self, digest: Digest) -> None:
        """Hash what the windows depend on; the tokens' hash was computed when they were saved."""
        described = (self.tokens.digest, self.start, self.stop, self.context, self.seed)
        digest.update(repr(described).encode())


@dataclass(frozen=True, eq=False)
class TextFilesTask(NextTokenTask):
    """Model text of any size: cross-entropy of the next token is minimised.

    The text is encoded once, on first use, into files of tokens that all processes map.

    Attributes:
        name: what records call it.
        train, validation, test: files and folders of each split, absolute. Without `validation`
            and `test`, the tokens of `train` are cut into three.
        tokenizer: file of the tokenizer.
        context: tokens a network sees at once.
        options: see `TextFilesOptions`.
        metric, own: what is measured; see `Measured`.
    """

    name: str
    train: tuple[Path, ...]
    validation: tuple[Path, ...]
    test: tuple[Path, ...]
    tokenizer: Path
    context: int
    options: TextFilesOptions
    metric: str = "perplexity"
    own: OwnMetric | None = None

    @cached_property
    def outputs(self) -> Boundary:
        """Logits (context, vocabulary).

        Raises:
            DataError: the tokenizer has more tokens than `vocabulary` says.
        """
        size, wanted = vocabulary_size(self.tokenizer), self.options["vocabulary"]
        if wanted is not None and size > wanted:
            raise DataError(
                f"task {self.name!r}: the tokenizer {self.tokenizer} has {size:,} tokens and the "
                f"vocabulary {wanted:,}: it is the tokenizer of another model; give the guide's own"
            )
        return Boundary((self.context, wanted or size))

    def encode(self, text: str) -> Tensor:
        """Ids (T,) of a text of one's own, int64, as the task's networks read it."""
        found = load_tokenizer(self.tokenizer).encode(text, add_special_tokens=False)
        return torch.tensor(found.ids, dtype=torch.int64)

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of ids (T,)."""
        text: str = load_tokenizer(self.tokenizer).decode([int(one) for one in ids])
        return text

    def token_bytes(self) -> Tensor:
        """Bytes of each token; see `tokenizing.token_bytes`.

        Raises:
            DataError: the tokenizer does not keep all of the text.
        """
        return token_bytes(load_tokenizer(self.tokenizer), self.outputs.shape[1])

    def files(self) -> dict[Split, tuple[Path, ...]]:
        """The files of each split that is read from files of its own.

        Raises:
            DataError: a file is missing or in two splits, or no file is left for training.
        """
        pattern = self.options["pattern"]
        patterns = (pattern,) if isinstance(pattern, str) else tuple(pattern)
        train, validation, test = (
            listed(paths, patterns) for paths in (self.train, self.validation, self.test)
        )
        if not validation:
            return {"train": train}
        if both := sorted({*validation} & {*test}):
            raise DataError(
                f"task {self.name!r}: {both[0]} is both in validation and in test; give each file "
                "to one of them"
            )
        rest = tuple(path for path in train if path not in {*validation, *test})
        if not rest:
            raise DataError(
                f"task {self.name!r}: every file of train is held out for validation or test; "
                "give more files, or hold out fewer"
            )
        return {"train": rest, "validation": validation, "test": test}

    def load(self) -> Splits:
        """Map the tokens into memory; text that was not read before is encoded first.

        Raises:
            DataError: a file cannot be read or is no text, or a split has no window.
            StorageError: the cache cannot be written.
        """
        # First, since a wrong tokenizer would cost a pass over the text.
        _ = self.outputs
        folder = self.options["cache"]
        cache = TokenCache(
            default_cache() if folder is None else _absolute(folder),
            self.tokenizer,
            self.options["separator"],
        )
        limits = self.options["tokens"] or {}
        files = self.files()
        parts: dict[Split, tuple[Tokens, int, int]] = {}
        if len(files) == 1:
            tokens = cache.get(TextSource(files["train"], self.options["column"]))
            for split, (start, stop) in _segments(tokens.count).items():
                limit = limits.get(split, stop - start)
                parts[split] = tokens, start, min(stop, start + limit)
        else:
            for split, chosen in files.items():
                tokens = cache.get(TextSource(chosen, self.options["column"]), limits.get(split))
                parts[split] = tokens, 0, tokens.count
        for split, (_, start, stop) in parts.items():
            self._check_length(split, stop - start)
        train, validation, test = (parts[split] for split in SPLITS)
        return Splits(
            MappedExamples(*train, self.context, self.options["seed"]),
            MappedExamples(*validation, self.context),
            MappedExamples(*test, self.context),
        )

    def _check_length(self, split: Split, tokens: int) -> None:
        if tokens <= self.context:
            raise DataError(
                f"task {self.name!r}: the {split} split has {tokens:,} tokens, a window of context "
                f"{self.context} needs {self.context + 1:,}; give more text, a greater limit, or a "
                "shorter context"
            )


def text_files(
    train: Given,
    *,
    tokenizer: str | Path,
    context: int = 128,
    validation: Given = (),
    test: Given = (),
    **options: Unpack[TextFilesOptions],
) -> TextFilesTask:
    """Model text of any size in a pretrained model's tokens; see `TextFilesTask`.

    Text is read on first use, and encoded once into `cache`, where later runs and other processes
    find the tokens. It is in UTF-8, or in UTF-16 or 32 with a byte-order mark. For example::

        text_files("plays", tokenizer="smollm2", validation=["hamlet.md"], test=["lear.md"])

    Args:
        train: a file, a folder or several of them: text, Parquet, or a folder that `datasets`
            saved. Files that are held out below are left out.
        tokenizer: a ``tokenizer.json``, the folder of a Hugging Face model, or a GGUF file.
        context: tokens a network sees at once.
        validation: what is held out to compare networks; files, folders and patterns, looked up in
            the folders of `train` first. Default: the first half of the last 10 % of the tokens of
            `train`.
        test: what is held out for the end, in the same way. Default: the last 5 % of the tokens.
        options: see `TextFilesOptions`; the name is that of the first file or folder, and the
            metric "perplexity" by default.

    Raises:
        DataError: a file, folder or tokenizer is missing, only one of `validation` and `test` is
            given, or a number is below 1.
    """
    files, *held_out = map(_many, (train, validation, test))
    if not files:
        raise DataError("text_files: train needs at least one file or folder")
    if bool(held_out[0]) != bool(held_out[1]):
        lacking = "test" if held_out[0] else "validation"
        raise DataError(
            f"text_files: {lacking} is missing; give both validation and test, or neither"
        )
    defaults = TextFilesOptions(
        seed=0,
        name=None,
        metric="perplexity",
        pattern=PATTERNS,
        column="text",
        separator=None,
        tokens=None,
        vocabulary=None,
        cache=None,
    )
    chosen = completed("text_files", options, defaults)
    _check_numbers(context, chosen)
    cache = default_cache() if chosen["cache"] is None else _absolute(chosen["cache"])
    paths = located(files)
    folders = [path for path in paths if path.is_dir()]
    return TextFilesTask(
        chosen["name"] or paths[0].stem,
        paths,
        located(held_out[0], folders),
        located(held_out[1], folders),
        tokenizer_file(tokenizer, cache),
        context,
        chosen,
        metric=chosen["metric"],
    )


def _check_numbers(context: int, options: TextFilesOptions) -> None:
    for name, value in {"context": context, "vocabulary": options["vocabulary"]}.items():
        if value is not None and value < 1:
            raise DataError(f"text_files: {name} is at least 1, not {value}")
    for split, limit in (options["tokens"] or {}).items():
        if split not in SPLITS or limit < 1:
            raise DataError(
                f"text_files: tokens has a number of at least 1 for any of {', '.join(SPLITS)}, "
                f"not {limit!r} for {split!r}"
            )


def _many(given: Given) -> tuple[str | Path, ...]:
    return (given,) if isinstance(given, str | Path) else tuple(given)


def _absolute(path: str | Path) -> Path:
    return Path(path).expanduser().absolute()


def _segments(count: int) -> dict[Split, tuple[int, int]]:
    train = int(count * _TRAIN_SHARE)
    validation = train + int(count * _VALIDATION_SHARE)
    return {"train": (0, train), "validation": (train, validation), "test": (validation, count)}

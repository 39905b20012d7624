"""Language modelling of the user's own text: predict each next character or token."""

from __future__ import annotations

import codecs
import importlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, Unpack

import torch
from torch import Tensor
from torch.nn import functional

from nas_theseus.errors import DataError, ShapeError
from nas_theseus.tasks.distillation import of_classes
from nas_theseus.tasks.metric import Measured, OwnMetric, Targets
from nas_theseus.tasks.task import Device, Digest, Splits, SplitTask, hash_tensor, shuffled
from nas_theseus.tasks.task_options import SourceOptions
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed

Level: TypeAlias = Literal["character", "bpe"]

BPE_VOCABULARY = 4096
# Byte-order marks; the longer first, as one of UTF-32 begins with one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    (codecs.BOM_UTF8, "utf-8-sig"),
)
_TRAIN_SHARE, _VALIDATION_SHARE = 0.90, 0.05


@dataclass(frozen=True, eq=False)
class TokenExamples:
    """Windows of a run of tokens: inputs are a window, targets the same window one token later.

    Attributes:
        windows: (N, context + 1), int32; neighbours share one token, the first one's last target.
    """

    windows: Tensor
    indexed: ClassVar[bool] = False
    _moved: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self.windows)

    def select(
        self, order: Tensor, batch_size: int, device: Device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and targets (B, context), int64."""
        key = str(device)
        if key not in self._moved:
            self._moved[key] = self.windows.to(device)
        order = order.to(device)
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
            tokens = self._moved[key].index_select(0, chosen).long()
            yield tokens[:, :-1], tokens[:, 1:]

    def update(self, digest: Digest) -> None:
        """Hash the windows in order."""
        hash_tensor(digest, self.windows)


@dataclass(frozen=True, eq=False)
class TextTask(Measured, SplitTask):
    """Model text: cross-entropy of the next token is minimised, perplexity is measured.

    Perplexities compare only between tasks of the same tokens.

    Attributes:
        name: what records call it.
        paths: text files in UTF-8, read one after the other.
        level: ``character``, or ``bpe`` for byte-level pair encoding learnt on the training text.
        context: tokens a network sees at once.
        vocabulary: number of different tokens; None is counted from the text (characters) or
            4,096 (bpe).
        seed: fixes the order of the training windows.
        characters: only so many are read, from the beginning; None for all.
        tokenizer: a tokenizer's file, used as it is in place of a learnt byte-level encoding.
        metric, own: what is measured; see `Measured`.
    """

    name: str
    paths: tuple[Path, ...]
    level: Level
    context: int
    vocabulary: int | None
    seed: int
    characters: int | None = None
    tokenizer: Path | None = None
    metric: str = "perplexity"
    own: OwnMetric | None = None

    @property
    def inlet(self) -> Boundary:
        """Token ids (context,)."""
        return Boundary((self.context,), integer=True)

    @property
    def outputs(self) -> Boundary:
        """Logits (context, vocabulary); at character level without `vocabulary` reads the text."""
        if self.vocabulary is not None:
            return Boundary((self.context, self.vocabulary))
        if self.tokenizer is not None:
            return Boundary((self.context, _tokenizer(self.tokenizer).get_vocab_size()))
        if self.level == "bpe":
            return Boundary((self.context, BPE_VOCABULARY))
        return Boundary((self.context, self._characters))

    @cached_property
    def _characters(self) -> int:
        """Characters of the training text, and one more for those that it lacks."""
        return len(set(self._segments[0])) + 1

    @cached_property
    def _segments(self) -> tuple[str, str, str]:
        text = "".join(_read(path) for path in self.paths)[: self.characters]
        train = int(len(text) * _TRAIN_SHARE)
        validation = train + int(len(text) * _VALIDATION_SHARE)
        return text[:train], text[train:validation], text[validation:]

    def load(self) -> Splits:
        """Read the text, cut it into three contiguous segments (90/5/5) and those into windows.

        Raises:
            DataError: a file cannot be read as UTF-8, a segment has no window, or ``tokenizers``
                is missing.
        """
        size = self.outputs.shape[1]
        if self.level == "character":
            tokens = _encode_characters(self._segments, size)
        elif self.tokenizer is not None:
            tokens = _encode_with(_tokenizer(self.tokenizer), self._segments)
        else:
            tokens = _encode_bpe(self._segments, size)
        parts = ("train", "validation", "test")
        train, *others = (self._windows(part, one) for part, one in zip(parts, tokens, strict=True))
        order = shuffled(len(train), self.seed)
        return Splits(TokenExamples(train[order]), *map(TokenExamples, others))

    def _windows(self, part: str, tokens: Tensor) -> Tensor:
        if len(tokens) <= self.context:
            raise DataError(
                f"task {self.name!r}: the {part} segment has {len(tokens):,} tokens, a window of "
                f"context {self.context} needs {self.context + 1:,}; give more text (validation "
                "and test are 5 % each) or a shorter context"
            )
        return tokens.unfold(0, self.context + 1, self.context)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy per token of logits (B, T, vocabulary) against ids (B, T).

        Raises:
            ShapeError: the outputs are not (B, T, vocabulary).
        """
        self._check(outputs, targets)
        return functional.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    @property
    def targets(self) -> Targets:
        """Token ids."""
        return Targets("tokens", self.outputs.shape[1])

    def distillation(self, outputs: Tensor, teacher: Tensor, temperature: float) -> Tensor:
        """KL divergence from the guide's distribution of each token; see `of_classes`."""
        return of_classes(outputs, teacher, temperature, dim=-1)

    def for_metric(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Both as they are.

        Raises:
            ShapeError: the outputs are not (B, T, vocabulary).
        """
        self._check(outputs, targets)
        return outputs, targets

    def _check(self, outputs: Tensor, targets: Tensor) -> None:
        expected = (*targets.shape, self.outputs.shape[1])
        if tuple(outputs.shape) != expected:
            raise ShapeError(
                f"task {self.name!r}: outputs have shape {tuple(outputs.shape)}, expected "
                f"{expected} (batch, tokens, vocabulary)"
            )


def text_file(
    path: str | Path | Sequence[str | Path],
    *,
    level: Level = "character",
    context: int = 128,
    vocabulary: int | None = None,
    characters: int | None = None,
    tokenizer: str | Path | None = None,
    **options: Unpack[SourceOptions],
) -> TextTask:
    """Model one text file or several, joined in the order given; see `TextTask`.

    Args:
        path: file or files in UTF-8, or in UTF-16 or 32 with a byte-order mark; read on first
            use. Line ends of any system become newlines.
        level: ``character`` or ``bpe`` (needs the optional extra ``text``).
        context: tokens a network sees at once.
        vocabulary: keep only so many tokens. Of characters the most frequent in the training
            text, the rest become one unknown token; a byte-level bpe needs at least 256.
        characters: read only so many, from the beginning.
        tokenizer: a ``tokenizer.json`` of Hugging Face's tokenizers, such as a pretrained guide's
            own; needs `level` bpe and decides the vocabulary.
        options: see `SourceOptions`; the name is the first file's without its ending, and the
            metric "perplexity" by default.

    Raises:
        DataError: no file, an unknown level, or a context or vocabulary that cannot be.
    """
    given = [path] if isinstance(path, str | Path) else list(path)
    if not given:
        raise DataError("text_file needs at least one file")
    if level not in ("character", "bpe"):
        raise DataError(f"text_file: level is 'character' or 'bpe', not {level!r}")
    least = 256 if level == "bpe" else 2
    if context < 1 or (vocabulary is not None and vocabulary < least):
        raise DataError(
            f"text_file: context is at least 1 and vocabulary at least {least} at level {level!r}, "
            f"not {context} and {vocabulary}"
        )
    if characters is not None and characters < 1:
        raise DataError(f"text_file: characters is at least 1, not {characters}")
    if tokenizer is not None and (level != "bpe" or vocabulary is not None):
        raise DataError(
            "text_file: a tokenizer's file decides the vocabulary and needs level='bpe'; leave "
            "vocabulary out"
        )
    paths = tuple(Path(one).expanduser().absolute() for one in given)
    known = None if tokenizer is None else Path(tokenizer).expanduser().absolute()
    defaults = SourceOptions(seed=0, name=None, metric="perplexity")
    chosen = completed("text_file", options, defaults)
    return TextTask(
        chosen["name"] or paths[0].stem,
        paths,
        level,
        context,
        vocabulary,
        chosen["seed"],
        characters,
        known,
        metric=chosen["metric"],
    )


def _read(path: Path) -> str:
    """A file's text, its line ends as newlines, whatever system it is from.

    Raises:
        DataError: the file cannot be read, is not in UTF-8, or in UTF-16 or 32 without a mark.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} cannot be read as {encoding.partition('-sig')[0].upper()} text: {error}; save "
            "it in UTF-8"
        ) from error
    if "\0" in text:
        raise DataError(
            f"{path} has NUL characters, as text in UTF-16 without a byte-order mark has, or a "
            "file that is no text; save it in UTF-8"
        )
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _encode_characters(segments: tuple[str, str, str], size: int) -> list[Tensor]:
    """Ids by frequency in the training text, ties by character; 0 stands for all others."""
    counts = Counter(segments[0])
    kept = sorted(counts, key=lambda character: (-counts[character], character))[: size - 1]
    ids = {character: number for number, character in enumerate(kept, start=1)}
    return [
        torch.tensor([ids.get(character, 0) for character in segment], dtype=torch.int32)
        for segment in segments
    ]


def _encode_bpe(segments: tuple[str, str, str], size: int) -> list[Tensor]:
    """Ids of a byte-level pair encoding learnt on the training segment alone."""
    tokenizer = _tokenizers().ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        segments[0].splitlines(keepends=True), vocab_size=size, show_progress=False
    )
    return _encode_with(tokenizer, segments)


def _encode_with(tokenizer: Any, segments: tuple[str, str, str]) -> list[Tensor]:
    return [torch.tensor(tokenizer.encode(segment).ids, dtype=torch.int32) for segment in segments]


@lru_cache(maxsize=4)
def _tokenizer(path: Path) -> Any:
    try:
        tokenizer = _tokenizers().Tokenizer.from_file(str(path))
    except DataError:
        raise
    except Exception as error:  # tokenizers raises plain Exception for whatever it cannot read
        raise DataError(f"{path} is no tokenizer of Hugging Face's tokenizers: {error}") from error
    # A file may say how long a sentence is; a whole segment is encoded at once.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _tokenizers() -> Any:
    try:
        # The one optional import: only this level needs it.
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise DataError(
            "level='bpe' needs the package tokenizers: pip install 'nas-theseus[text]', or use "
            "level='character'"
        ) from error

"""Language modelling of the user's own text: predict each next character or token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeAlias, Unpack

import torch
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.tasks.metric import OwnMetric
from nas_theseus.tasks.next_token import NextTokenTask
from nas_theseus.tasks.task import Device, Digest, Splits, hash_tensor, shuffled
from nas_theseus.tasks.task_options import SourceOptions
from nas_theseus.tasks.text_reading import read_text
from nas_theseus.tasks.tokenizing import load_tokenizer, token_bytes, tokenizers_package
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.keywords import completed

Level: TypeAlias = Literal["character", "bpe"]

BPE_VOCABULARY = 4096
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
class TextTask(NextTokenTask):
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
    def outputs(self) -> Boundary:
        """Logits (context, vocabulary); at character level without `vocabulary` reads the text."""
        if self.vocabulary is not None:
            return Boundary((self.context, self.vocabulary))
        if self.tokenizer is not None:
            return Boundary((self.context, load_tokenizer(self.tokenizer).get_vocab_size()))
        if self.level == "bpe":
            return Boundary((self.context, BPE_VOCABULARY))
        return Boundary((self.context, self._characters))

    @cached_property
    def _characters(self) -> int:
        """Characters of the training text, and one more for those that it lacks."""
        return len(set(self._segments[0])) + 1

    @cached_property
    def _segments(self) -> tuple[str, str, str]:
        text = "".join(map(read_text, self.paths))[: self.characters]
        train = int(len(text) * _TRAIN_SHARE)
        validation = train + int(len(text) * _VALIDATION_SHARE)
        return text[:train], text[train:validation], text[validation:]

    @cached_property
    def _encoding(self) -> Any:
        """The tokenizer: the given one, or one that is learnt on the training text alone."""
        if self.tokenizer is not None:
            return load_tokenizer(self.tokenizer)
        return _learnt(self._segments[0], self.outputs.shape[1])

    def load(self) -> Splits:
        """Read the text, cut it into three contiguous segments (90/5/5) and those into windows.

        Raises:
            DataError: a file cannot be read as UTF-8, a segment has no window, or ``tokenizers``
                is missing.
        """
        if self.level == "character":
            tokens = _encode_characters(self._segments, self._characters_kept)
        else:
            tokens = _encode_with(self._encoding, self._segments)
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

    def encode(self, text: str) -> Tensor:
        """Ids (T,) of a text of one's own, int64, as the task's networks read it.

        A character that the vocabulary lacks is 0. Reads the training text, whose characters or
        pairs the vocabulary has.
        """
        if self.level == "character":
            (ids,) = _encode_characters((text,), self._characters_kept)
        else:
            (ids,) = _encode_with(self._encoding, (text,))
        return ids.long()

    def decode(self, ids: Tensor | Sequence[int]) -> str:
        """The text of ids (T,); the id of unknown characters becomes U+FFFD."""
        numbers = [int(one) for one in ids]
        if self.level != "character":
            decoded: str = self._encoding.decode(numbers)
            return decoded
        characters = ("\N{REPLACEMENT CHARACTER}", *self._characters_kept)
        return "".join(characters[number] for number in numbers)

    @cached_property
    def _characters_kept(self) -> list[str]:
        """The characters with ids from 1, in their order."""
        return _kept(self._segments[0], self.outputs.shape[1])

    def token_bytes(self) -> Tensor:
        """Bytes of each token in UTF-8; the one that stands for all rare characters counts as one.

        Raises:
            DataError: the tokenizer does not keep all of the text.
        """
        size = self.outputs.shape[1]
        if self.level == "bpe":
            return token_bytes(self._encoding, size)
        found = torch.ones(size, dtype=torch.int64)
        for number, character in enumerate(self._characters_kept, start=1):
            found[number] = len(character.encode())
        return found


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


def _kept(text: str, size: int) -> list[str]:
    """The characters that a vocabulary keeps, by frequency, ties by character."""
    counts = Counter(text)
    return sorted(counts, key=lambda character: (-counts[character], character))[: size - 1]


def _encode_characters(segments: Sequence[str], kept: Sequence[str]) -> list[Tensor]:
    """Ids of characters, from 1 in the order in which they are kept; 0 stands for all others."""
    ids = {character: number for number, character in enumerate(kept, start=1)}
    return [
        torch.tensor([ids.get(character, 0) for character in segment], dtype=torch.int32)
        for segment in segments
    ]


def _learnt(text: str, size: int) -> Any:
    """A byte-level pair encoding learnt on a text."""
    tokenizer = tokenizers_package().ByteLevelBPETokenizer()
    tokenizer.train_from_iterator(
        text.splitlines(keepends=True), vocab_size=size, show_progress=False
    )
    return tokenizer


def _encode_with(tokenizer: Any, segments: Sequence[str]) -> list[Tensor]:
    return [torch.tensor(tokenizer.encode(segment).ids, dtype=torch.int32) for segment in segments]

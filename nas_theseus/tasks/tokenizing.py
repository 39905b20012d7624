"""Tokenizers of Hugging Face's package: loading, encoding of long texts, bytes of each token."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock
from torch import Tensor

from nas_theseus.errors import DataError
from nas_theseus.storage.whole_files import make_folder, write_bytes
from nas_theseus.values.ids import short_hash

# Characters of one call of a tokenizer, and of all the calls that run at once. An encoding takes
# some hundred bytes a character.
_PIECE, _AT_ONCE = 1 << 16, 1 << 19
_LEAD = 256
_MOST_IDS = 1 << 24
# Where a text may be cut so that its tokens stay the same: a newline between other characters, or
# else the space before a word.
_CUTS = (re.compile(r"(?<=\S\n)(?=\w)"), re.compile(r"(?<=\w)(?= \w)"))


class Piece(NamedTuple):
    """A piece of a document.

    Attributes:
        lead: the end of the piece before it, so that the first tokens are those inside the text.
        text: what the piece adds.
        last: whether the document ends here.
    """

    lead: str
    text: str
    last: bool


def tokenizers_package() -> Any:
    """The optional package ``tokenizers``.

    Raises:
        DataError: it is not installed.
    """
    try:
        # The one optional import: only text in tokens needs it.
        return importlib.import_module("tokenizers")
    except ImportError as error:
        raise DataError(
            "level='bpe' and tokenizers' files need the package tokenizers: pip install "
            "'nas-theseus[text]', or use text_file(level='character')"
        ) from error


def tokenizer_file(given: str | Path, cache: Path) -> Path:
    """The ``tokenizer.json`` that a user means.

    Args:
        given: that file, a folder with it, or a GGUF file, whose tokenizer transformers reads.
        cache: folder in which the tokenizer of a GGUF file is saved.

    Raises:
        DataError: there is no such file, or transformers cannot read it.
    """
    path = Path(given).expanduser().absolute()
    if path.is_dir():
        if not (path / "tokenizer.json").is_file():
            raise DataError(
                f"tokenizer: {path} has no tokenizer.json; make it with "
                "AutoTokenizer.from_pretrained(folder).save_pretrained(folder) of transformers"
            )
        return path / "tokenizer.json"
    if not path.is_file():
        raise DataError(
            f"tokenizer: there is no {path}; give a tokenizer.json, the folder of a Hugging Face "
            "model, or a GGUF file"
        )
    return _of_gguf(path, cache) if path.suffix == ".gguf" else path


def _of_gguf(path: Path, cache: Path) -> Path:
    """The tokenizer of a GGUF file, as transformers reads it, saved as JSON."""
    status = path.stat()
    key = short_hash([str(path), status.st_size, status.st_mtime_ns], 16)
    saved = cache / f"tokenizer-{key}.json"
    if saved.is_file():
        return saved
    make_folder(cache, "cache=")
    with FileLock(saved.with_suffix(".lock")):
        if not saved.is_file():
            try:
                transformers = importlib.import_module("transformers")
                read = transformers.AutoTokenizer.from_pretrained(
                    path.parent, gguf_file=path.name, local_files_only=True
                )
                text = read.backend_tokenizer.to_str()
            except Exception as error:  # of many kinds, for a file that is not what it seems
                raise DataError(
                    f"tokenizer: transformers cannot read the one of {path}: {error}; give the "
                    "model's tokenizer.json"
                ) from error
            write_bytes(saved, text.encode())
    return saved


def load_tokenizer(path: Path) -> Any:
    """A tokenizer from its file, loaded once in a process.

    Raises:
        DataError: it is no tokenizer's file, or ``tokenizers`` is not installed.
    """
    try:
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise DataError(f"tokenizer: {path} cannot be read: {error.strerror or error}") from error
    return _loaded(path, changed)


@contextmanager
def _as_data_error(what: str) -> Iterator[None]:
    """What tokenizers raises as an error of ours: plain Exception, or a panic of Rust.

    A panic is no Exception, so that it would pass for an interrupt.
    """
    try:
        yield
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise DataError(f"{what}: {error}") from error


@lru_cache(maxsize=4)
def _loaded(path: Path, _changed: int) -> Any:
    package = tokenizers_package()
    with _as_data_error(f"{path} is no tokenizer of Hugging Face's tokenizers"):
        tokenizer = package.Tokenizer.from_file(str(path))
    # A file may say how long a sentence is; a whole segment is encoded at once.
    most = max(tokenizer.get_vocab().values(), default=0)
    if most > _MOST_IDS:
        raise DataError(
            f"{path} has a token of id {most:,}, more than {_MOST_IDS:,}; it is damaged"
        )
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


@lru_cache(maxsize=4)
def _vocabulary_of(path: Path, _changed: int) -> int:
    return 1 + max(load_tokenizer(path).get_vocab(with_added_tokens=True).values(), default=0)


def vocabulary_size(path: Path) -> int:
    """One more than the greatest id of a tokenizer.

    Raises:
        DataError: as for `load_tokenizer`.
    """
    load_tokenizer(path)
    return _vocabulary_of(path, path.stat().st_mtime_ns)


def pieces_of(chunks: Iterable[str]) -> Iterator[Piece]:
    """Cut a document, given in chunks, into pieces that are encoded one by one."""
    held, lead = "", ""
    for chunk in chunks:
        held += chunk
        while len(held) > 2 * _PIECE:
            cut = _cut(held)
            yield Piece(lead, held[:cut], last=False)
            # From a line's beginning if there is one.
            before = held[max(0, cut - _LEAD) : cut]
            lead = before[before.find("\n", 0, -1) + 1 :]
            held = held[cut:]
    yield Piece(lead, held, last=True)


def _cut(text: str) -> int:
    """Where the first piece of a text ends, at most twice the usual length from its beginning."""
    for pattern in _CUTS:
        if found := pattern.search(text, _PIECE, 2 * _PIECE):
            return found.start()
    return _PIECE


def encode_stream(
    tokenizer: Any, documents: Iterable[Iterable[str]], separator: int | None = None
) -> Iterator[npt.NDArray[np.int64]]:
    """Ids of documents one after the other, in memory that does not grow with their length.

    A document's ids are those of the whole of it, without the tokens that a tokenizer adds at the
    ends of a sentence.

    Args:
        tokenizer: without truncation and padding.
        documents: each a stream of chunks of text.
        separator: id put behind each document.
    """
    waiting: list[Piece] = []
    length = 0
    for document in documents:
        for piece in pieces_of(document):
            waiting.append(piece)
            length += len(piece.lead) + len(piece.text)
            if length >= _AT_ONCE:
                yield _encoded(tokenizer, waiting, separator)
                waiting, length = [], 0
    if waiting:
        yield _encoded(tokenizer, waiting, separator)


def _encoded(tokenizer: Any, pieces: list[Piece], separator: int | None) -> npt.NDArray[np.int64]:
    leads = _ids(tokenizer, [piece.lead for piece in pieces])
    wholes = _ids(tokenizer, [piece.lead + piece.text for piece in pieces])
    found = []
    for piece, lead, whole in zip(pieces, leads, wholes, strict=True):
        if whole[: len(lead)] != lead:
            # A token reaches over the cut; rare, and then the piece begins like a document.
            (whole,), lead = _ids(tokenizer, [piece.text]), []
        found.append(np.array(whole[len(lead) :], dtype=np.int64))
        if piece.last and separator is not None:
            found.append(np.array([separator]))
    return np.concatenate(found)


def _ids(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    with _as_data_error("the tokenizer cannot encode this text, so its file may be damaged"):
        encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
    return [encoding.ids for encoding in encodings]


def token_bytes(tokenizer: Any, size: int) -> Tensor:
    """Bytes of text that each token stands for.

    Special tokens stand for none.

    Args:
        tokenizer: a byte-level one (GPT-2, Llama 3, Qwen), or one that spells unknown characters in
            bytes (Llama 2, Mistral, Gemma).
        size: of the vocabulary.

    Returns:
        Shape (size,), int64.

    Raises:
        DataError: the tokenizer does not keep all of the text, so that bytes cannot be counted.
    """
    described = json.loads(tokenizer.to_str())
    kinds = _kinds(described.get("decoder"))
    if "ByteLevel" not in kinds and "ByteFallback" not in kinds:
        raise DataError(
            "bits_per_byte needs a tokenizer that keeps every byte of the text: byte-level or with "
            f"byte fallback, not one that decodes by {', '.join(sorted(kinds)) or 'nothing'}; use "
            "perplexity"
        )
    found = torch.zeros(size, dtype=torch.int64)
    byte_level = "ByteLevel" in kinds
    for token, number in tokenizer.get_vocab().items():
        if number < size:
            found[number] = len(token) if byte_level else _fallback_bytes(token)
    for added in described.get("added_tokens", ()):
        if added["id"] < size:
            length = 0 if added["special"] else len(added["content"].encode())
            found[added["id"]] = length
    return found


def _fallback_bytes(token: str) -> int:
    if re.fullmatch(r"<0x[0-9A-F]{2}>", token):
        return 1
    return len(token.replace("▁", " ").encode())


def _kinds(decoder: dict[str, Any] | None) -> set[str]:
    if decoder is None:
        return set()
    inner = (_kinds(one) for one in decoder.get("decoders", ()))
    return {decoder["type"]}.union(*inner)

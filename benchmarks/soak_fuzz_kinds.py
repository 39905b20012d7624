"""Kinds of files that people are sent: how a good one is made, and how the product reads it.

Readers raise `AssertionError` where a result is silently wrong.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import os
import struct
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import nn

from nas_theseus.values.ids import short_hash

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


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2))


# --- weights -------------------------------------------------------------------------------------


def make_safetensors(folder: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(small_network().state_dict(), folder / "w.safetensors")


def make_checkpoint(folder: Path) -> None:
    network = small_network()
    optimizer = torch.optim.AdamW(network.parameters())
    saved = {"model": network.state_dict(), "epoch": 3, "optimizer": optimizer.state_dict()}
    torch.save(saved, folder / "w.pt")


def make_old_checkpoint(folder: Path) -> None:
    state = small_network().state_dict()
    torch.save(state, folder / "w.pth", _use_new_zipfile_serialization=False)


def read_weights_file(folder: Path) -> None:
    from nas_theseus.guide.weights import load_weights

    names = [name for name in ("w.safetensors", "w.pt", "w.pth") if os.path.lexists(folder / name)]
    network = small_network()
    load_weights(network, folder / (names or ["w.pt"])[0])
    shapes = [tuple(t.shape) for t in network.state_dict().values()]
    assert shapes == [tuple(t.shape) for t in small_network().state_dict().values()]


def _training() -> tuple[Any, Any, Any]:
    network = small_network()
    optimizer = torch.optim.AdamW(network.parameters())
    return network, optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)


def make_training(folder: Path) -> None:
    from nas_theseus.conversion.training_checkpoint import Checkpoint, TrainingProgress

    network, optimizer, schedule = _training()
    for _ in range(2):
        network(torch.randn(8, 4)).sum().backward()
        optimizer.step()
        schedule.step()
    Checkpoint(folder / "g.1.checkpoint", "g.1", print).save(
        TrainingProgress(2), network, optimizer, schedule
    )


def sign_training(data: bytes) -> bytes:
    import hashlib

    return hashlib.sha256(data[32:]).digest() + data[32:]


def read_training(folder: Path) -> None:
    from nas_theseus.conversion.training_checkpoint import Checkpoint

    network, optimizer, schedule = _training()
    said: list[str] = []
    found = Checkpoint(folder / "g.1.checkpoint", "g.1", said.append).resume(
        network, optimizer, schedule
    )
    assert said, "neither resumed nor told why not"
    if found is None:
        fresh = small_network().state_dict()
        assert all(torch.equal(t, fresh[n]) for n, t in network.state_dict().items()), "half"
    else:
        assert isinstance(found.epochs, int) and found.epochs >= 0, f"{found}"
        assert isinstance(found.pieces, int) and found.pieces >= 1, f"{found}"


def make_guide_work(folder: Path) -> None:
    read_guide_work(folder)


def read_guide_work(folder: Path) -> None:
    from nas_theseus.conversion.guide_work import GuideWork
    from nas_theseus.guide.chain import Guide
    from nas_theseus.values.architecture import Boundary

    guide = Guide([("a", small_network())], Boundary((4,)))
    sample = torch.arange(32.0).reshape(8, 4)
    work = GuideWork(folder, guide, sample, torch.device("cpu"))
    found = work.get("logits", lambda: torch.full((8, 2), 0.5))
    assert found.shape == (8, 2) and found.dtype == torch.float32, f"{found.shape} {found.dtype}"


# --- models of Hugging Face ----------------------------------------------------------------------


def make_llama(folder: Path) -> None:
    import transformers

    config = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=32,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)


def read_llama(folder: Path) -> None:
    from nas_theseus.guide.huggingface import huggingface_guide, load_language_model

    guide = huggingface_guide(load_language_model(folder), context=16)
    assert len(guide) > 1


def make_vit(folder: Path) -> None:
    import transformers

    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    torch.manual_seed(0)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 16, "width": 16},
            "do_resize": True, "do_normalize": True, "do_rescale": True, "resample": 2,
            "rescale_factor": 1 / 255, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}  # fmt: skip
    (folder / "preprocessor_config.json").write_text(json.dumps(said))


def read_vit(folder: Path) -> None:
    from nas_theseus.guide.sources.hf import DEFAULT, load

    load(str(folder), DEFAULT, None)


# --- library -------------------------------------------------------------------------------------


def _key() -> Any:
    from nas_theseus import Recipe
    from nas_theseus.library.block_key import BlockKey
    from nas_theseus.values.architecture import Boundary, Span

    end = Boundary((4,))
    return BlockKey("g" * 16, "d" * 16, Span(0, 1), "mine", (), end, end, "c" * 16, Recipe())


def _facts() -> Any:
    from nas_theseus.library.record import Facts

    return Facts(similarity=0.9, residual=0.25, steps=3, macs=1000, seconds=0.5, device="cpu")


def make_library(folder: Path) -> None:
    from nas_theseus.library.store import Library

    Library(folder / "library").put(_key(), {"weight": torch.eye(4)}, _facts())


def sign_record(data: bytes) -> bytes:
    """A record with its checksum right again, and of the weights that are there."""
    try:
        content = json.loads(data)
        content.pop("checksum", None)
        return json.dumps({**content, "checksum": short_hash(content, 16)}).encode()
    except (ValueError, AttributeError, TypeError, RecursionError):
        return data


def read_library(folder: Path) -> None:
    from nas_theseus.library.store import Library

    library = Library(folder / "library", create=False)
    found = library.get(_key(), nn.Linear(4, 4, bias=False))
    if found is not None:
        assert torch.equal(found.state["weight"], torch.eye(4)), "other weights"
        facts = found.record.facts
        numbers = [facts.similarity, facts.residual, facts.steps, facts.macs, facts.seconds]
        assert all(math.isfinite(number) for number in numbers), f"{facts}"
    library.records([_key()])
    list(library.entries())
    library.verify()
    library.prune(guide="g")


# --- a search's folder ---------------------------------------------------------------------------


def searched(folder: Path) -> None:
    """A storage folder in which a small search has finished."""
    from benchmarks.soak_points import SPACE

    (folder / "small.py").write_text(SPACE)
    command = [sys.executable, "-m", "nas_theseus", "search", "small.py", "--trials", "4",
               "--executor", "inline", "--tracker", "json-lines", "--parallel", "1"]  # fmt: skip
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)


def _folder(folder: Path) -> Any:
    from nas_theseus.searches.folder import SearchFolder

    return SearchFolder(folder / "theseus", "small")


def read_records(folder: Path) -> None:
    """As `front`, `report` and a resumed search read it."""
    from nas_theseus.searches.block_measuring import read_measurements
    from nas_theseus.searches.front_files import count_at_chance, front_rows
    from nas_theseus.searches.records import Records
    from nas_theseus.services.mlflow.outbox import Outbox
    from nas_theseus.services.mlflow.search_runs import RecordError
    from nas_theseus.space.sources import read_sources, source_files

    search = _folder(folder)
    records = Records.read(search)
    front_rows(records.members)
    count_at_chance(search)
    _ = records.guide, records.reference, records.rungs, records.parts, records.state
    for one in records.evaluations:
        assert all(map(_is_number, one.values().values())), f"{one.values()}"
        assert _is_number(one.seconds) and _is_number(one.train_macs_spent), "seconds or MACs"
    for block in records.blocks:
        assert _is_number(block.seconds), f"{block}"
    assert all(_is_number(x) for x in records.guide.values() if not isinstance(x, str)), "guide"
    read_measurements(search)
    search.run_ids()
    read_sources(search.folder)
    source_files(search.folder)
    outbox = Outbox(search.outbox)
    for path in outbox.records():
        try:
            outbox.load(path)
        except RecordError as error:
            outbox.set_aside(path, str(error))
    from nas_theseus.services.trackers.json_lines import JsonLinesTracker
    from nas_theseus.values.tracking import TrackerContext

    given = "small", "x" * 12, search.folder, search.outbox, search.runs_file
    JsonLinesTracker(TrackerContext(*given)).begin({})


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and math.isfinite(value)  # type: ignore[arg-type]


def read_report(folder: Path) -> None:
    from nas_theseus.searches.records import Records
    from nas_theseus.searches.report_page import write_report

    write_report(Records.read(_folder(folder)))


@lru_cache(maxsize=1)
def _space(path: Path) -> Any:
    from nas_theseus.space.load import load_space
    from nas_theseus.space.sources import gather

    return load_space(gather(path))


def read_journal(folder: Path) -> None:
    """As a search that is resumed opens its study, and proposes once more."""
    from nas_theseus.costs.table import CostTable
    from nas_theseus.estimate.thompson import Proposer
    from nas_theseus.searches.front_files import read_outcomes
    from nas_theseus.services.optuna.study import Problem, StudySettings, open_study
    from nas_theseus.space.genome import Genome

    search = _folder(folder)
    space = _space(folder / "small.py")
    costs = CostTable(space)
    known = {one.architecture: one for one in read_outcomes(search)}
    proposer = Proposer(space, costs, known=lambda one: one in known)
    problem = Problem(Genome(space), space.goals, space.limits, costs.of, (), proposer)
    study = open_study(StudySettings("small", search.journal, "theseus", 0), problem, known.get)
    proposal = study.propose()
    if proposal is not None:
        study.report(proposal, next(iter(known.values())))


def read_found(folder: Path) -> None:
    """As `nas_theseus.load` rebuilds a found network, with the user's consent."""
    from nas_theseus.errors import StorageError
    from nas_theseus.export.member import read_member

    found = sorted(path for path in (folder / "theseus/searches/small/front").iterdir()
                   if path.is_dir())  # fmt: skip
    member = read_member(found[0], trust_code=True)
    outputs = member.network(torch.zeros(1, 1, 8, 8))
    assert outputs.shape == (1, 10), f"{outputs.shape}"
    try:
        read_member(found[0])
    except StorageError:
        return
    raise AssertionError("code ran without consent")


def make_architecture(folder: Path) -> None:
    said = [{"span": [0, 2], "block": "basic", "hyperparameters": {"width": 0.5}, "parts": ["a", "b"]},
            {"span": [2, 3], "block": "keep", "hyperparameters": {}}]  # fmt: skip
    (folder / "architecture.json").write_text(json.dumps(said))
    (folder / "name.txt").write_text("small/0123456789ab")
    (folder / "theseus").mkdir()


def read_names(folder: Path) -> None:
    """Names, budgets and settings as they are given on the command line, and a file of one."""
    from nas_theseus import Recipe
    from nas_theseus.api.found import find_architecture, find_network
    from nas_theseus.api.search import settings_of
    from nas_theseus.errors import TheseusError
    from nas_theseus.searches.budget import parse_budget
    from nas_theseus.values.architecture_words import in_words
    from nas_theseus.values.validation import assigned

    # The operating system refuses NUL in arguments, and decodes them so.
    text = (folder / "name.txt").read_bytes().decode("utf-8", "surrogateescape").replace("\0", "")
    root = folder / "theseus"
    for call in (
        lambda: find_architecture(text, root),
        lambda: find_network(text, root, trust_code=False),
        lambda: parse_budget(text),
        lambda: parse_budget(f"macs<={text}"),
        lambda: assigned(Recipe(), [text, f"epochs={text}"], "recipe"),
        lambda: settings_of(Path(text or "x"), {"storage": root, "name": text}, "search"),
        lambda: settings_of(Path("x.py"), {"storage": root, "library": text}, "search"),
    ):
        try:
            call()
        except TheseusError:
            continue
    found = find_architecture(str(folder / "architecture.json"), root)
    _ = found.id, found.title, found.pairing, in_words(found), found.to_json()
    assert all(math.isfinite(choice.width_share) for choice in found.choices), "width"


# --- tokens and text -----------------------------------------------------------------------------


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
    try:
        assert "\0" not in read_text(path)
    except TheseusError:
        pass
    for question in read_questions(path):
        assert 0 <= question.answer < len(question.choices)


# --- pictures and tables -------------------------------------------------------------------------


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
    import pyarrow
    import pyarrow.parquet

    saved = folder / "saved"
    saved.mkdir()
    rows = {
        "image": [{"bytes": _picture("PNG"), "path": "x.png"}] * 3,
        "label": [0, 1, 2],
        "text": ["the cat", "über", ""],
    }
    table = pyarrow.table(rows)
    pyarrow.parquet.write_table(table, folder / "a.parquet")
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


# --- comparisons and settings --------------------------------------------------------------------


def _pair(folder: Path) -> Any:
    from nas_theseus.stitching.cells import Endpoint
    from nas_theseus.stitching.rows import Pair

    return Pair("a", "b", folder), Endpoint("a", True, 1), Endpoint("b", False, 2)


def make_cell(folder: Path) -> None:
    from nas_theseus.stitching.cells import Cell

    pair, a, b = _pair(folder)
    (folder / "cells").mkdir()
    cell = Cell(a, b, 0.5, 0.4, 0.9, 0.1, 1.0)
    pair.cell_file(a, b).write_text(json.dumps(cell.to_json()))


def read_cell(folder: Path) -> None:
    pair, a, b = _pair(folder)
    found = pair.read(a, b)
    if found is not None:
        assert (found.sender, found.receiver) == (a, b), f"{found}"
        assert all(map(_is_number, (found.quality, found.start_quality, found.cka))), f"{found}"


def make_stitchable(folder: Path) -> None:
    from nas_theseus.stitching.stitchable import StitchableNet

    StitchableNet(_anchors()).save(folder / "net.safetensors")


def _anchors() -> list[Any]:
    from nas_theseus.guide.chain import Guide
    from nas_theseus.stitching.anchors import Anchor
    from nas_theseus.tasks import digits
    from nas_theseus.values.architecture import Boundary

    def network(width: int) -> Guide:
        torch.manual_seed(width)
        flat = nn.Sequential(nn.Flatten(), nn.Linear(64, width))
        parts = [("0", flat), ("1", nn.Linear(width, width)), ("2", nn.Linear(width, 10))]
        return Guide(parts, Boundary((1, 8, 8)))

    return [Anchor(f"a{width}", network(width), digits()) for width in (4, 8)]


def read_stitchable(folder: Path) -> None:
    from nas_theseus.stitching.stitchable import StitchableNet

    net = StitchableNet.load(folder / "net.safetensors", _anchors())
    assert net(torch.zeros(1, 1, 8, 8)).shape == (1, 10)


def make_environment(folder: Path) -> None:
    (folder / "env.yaml").write_text(
        "env_vars:\n  A: b\npip: [numpy]\nworking_dir: .\nconfig:\n  setup_timeout_seconds: 60\n"
    )


def read_environment(folder: Path) -> None:
    from nas_theseus.services.ray.runtime_environment import runtime_environment

    runtime_environment(folder / "env.yaml")


def kinds() -> Iterator[Kind]:
    """Every kind."""
    yield Kind("safetensors weights", make_safetensors, read_weights_file, 4000, links=True)
    yield Kind("torch checkpoints", make_checkpoint, read_weights_file, 3000, links=True)
    yield Kind("torch checkpoints before 1.6", make_old_checkpoint, read_weights_file, 2000)
    yield Kind("checkpoints of a training", make_training, read_training, 2000,
               sign=sign_training)  # fmt: skip
    yield Kind("stored activations", make_guide_work, read_guide_work, 3000, changed="*.npy",
               links=True)  # fmt: skip
    yield Kind("folders of language models", make_llama, read_llama, 600, json=True)
    yield Kind("folders of vision models", make_vit, read_vit, 600, json=True)
    yield Kind("library records", make_library, read_library, 4000, "library/blocks-1/*.json",
               json=True, sign=sign_record, links=True)  # fmt: skip
    yield Kind("library weights", make_library, read_library, 2000,
               "library/blocks-1/*.safetensors", links=True)  # fmt: skip
    yield Kind("results and records of a search", searched, read_records, 4000,
               "theseus/searches/small/**/*.json*", json=True, links=True)  # fmt: skip
    yield Kind("reports", searched, read_report, 200,
               "theseus/searches/small/**/*.json", json=True)  # fmt: skip
    yield Kind("journals", searched, read_journal, 2000, "theseus/searches/small/study.journal",
               json=True, runs=True)  # fmt: skip
    yield Kind("found networks", searched, read_found, 1500,
               "theseus/searches/small/front/*/[!s]*", json=True, runs=True)  # fmt: skip
    yield Kind("architectures, names and settings", make_architecture, read_names, 4000, "*.*",
               json=True)  # fmt: skip
    yield Kind("tokenizers", make_tokenizer, read_tokens, 1500, "tokenizer.json", json=True)
    yield Kind("caches of tokens", make_cached, read_tokens, 1500, "cache/tokens*.*", json=True)
    yield Kind("texts and questions", make_questions, read_text_files, 4000, json=True)
    yield Kind("pictures", make_pictures, read_pictures, 4000, links=True)
    yield Kind("tar files", make_tar, read_tar, 4000)
    yield Kind("Arrow and Parquet tables", make_tables, read_tables, 3000, "**/*.*", json=True)
    yield Kind("idx files", make_idx, read_idx_files, 1000)
    yield Kind("cells of a comparison", make_cell, read_cell, 3000, "cells/*.json", json=True)
    yield Kind("stitchable networks", make_stitchable, read_stitchable, 1500)
    yield Kind("runtime environments", make_environment, read_environment, 1000)


@contextmanager
def silent() -> Iterator[None]:
    """Without what libraries log and print."""
    import contextlib
    import logging
    import warnings

    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


def content_of(folder: Path) -> Mapping[str, bytes]:
    """Every file below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}

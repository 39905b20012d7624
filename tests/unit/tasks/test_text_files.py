"""Text of any size: where it is found, its cache, splits and limits, and what is refused."""

from __future__ import annotations

import json
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nas_theseus.errors import DataError, StorageError
from nas_theseus.tasks import text_files
from nas_theseus.tasks.contract import behaviour_mistakes, declaration_mistakes
from nas_theseus.tasks.task import SPLITS
from nas_theseus.tasks.text_files import TextFilesTask
from nas_theseus.tasks.tokenizing import load_tokenizer
from tests.unit.tasks.token_files import make_tokenizer, text

tokenizers = pytest.importorskip("tokenizers", reason="the optional extra text is missing")
pyarrow = pytest.importorskip("pyarrow", reason="the optional extra text is missing")
parquet = pytest.importorskip("pyarrow.parquet")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Five texts, two of them deeper, and files that are none."""
    root = tmp_path / "texts"
    (root / "deep").mkdir(parents=True)
    (root / ".hidden").mkdir()
    for number, name in enumerate(["b.txt", "a.md", "c.rst", "deep/d.txt", "deep/e.txt"]):
        (root / name).write_text(text(20, 20 * number), encoding="utf-8")
    (root / "program.py").write_text("print('no text')\n", encoding="utf-8")
    (root / ".hidden/f.txt").write_text("hidden\n", encoding="utf-8")
    make_tokenizer(tmp_path / "tokenizer.json")
    return root


def task_of(train: Any, folder: Path, **options: Any) -> TextFilesTask:
    beside = folder.parent
    options = {"context": 16, "cache": beside / "cache", **options}
    return text_files(train, tokenizer=beside / "tokenizer.json", **options)


def ids_of(folder: Path, *texts: str) -> list[int]:
    tokenizer = load_tokenizer(folder.parent / "tokenizer.json")
    return [number for one in texts for number in tokenizer.encode(one).ids]


def tokens_of(task: TextFilesTask, split: str) -> list[int]:
    examples: Any = task.splits.of(split)  # type: ignore[arg-type]
    found: list[int] = examples.tokens.mapped[examples.start : examples.stop].tolist()
    return found


def test_a_folder_is_read_by_name_and_cut_into_three(folder: Path) -> None:
    task = task_of(folder, folder)
    names = ["a.md", "b.txt", "c.rst", "deep/d.txt", "deep/e.txt"]
    whole = ids_of(folder, *((folder / name).read_text(encoding="utf-8") for name in names))
    ends = [0, int(len(whole) * 0.9), int(len(whole) * 0.9) + int(len(whole) * 0.05), len(whole)]
    for split, start, stop in zip(SPLITS, ends, ends[1:], strict=False):
        part = torch.tensor(whole[start:stop])
        windows = part.unfold(0, 17, 16)
        found = torch.cat([b.inputs for b in task.batches(split, 7)])
        targets = torch.cat([b.targets for b in task.batches(split, 7)])
        assert found.dtype == targets.dtype == torch.int64
        assert task.size(split) == len(windows) > 0
        if split == "train":  # shuffled by the task's seed
            assert not torch.equal(found, windows[:, :-1])
            assert sorted(found.tolist()) == sorted(windows[:, :-1].tolist())
        else:
            assert torch.equal(found, windows[:, :-1])
            assert torch.equal(targets, windows[:, 1:])
    assert task.outputs.shape == (16, 300)
    assert task.name == "texts"
    assert declaration_mistakes(task) == behaviour_mistakes(task, taught=True) == []


def test_held_out_files_are_looked_up_in_the_folder_and_left_out_of_training(folder: Path) -> None:
    task = task_of(folder, folder, validation=["a.md"], test=["deep/*.txt"], separator="<|end|>")
    b, c, a, d, e = (
        [*ids_of(folder, (folder / name).read_text(encoding="utf-8")), 0]
        for name in ("b.txt", "c.rst", "a.md", "deep/d.txt", "deep/e.txt")
    )
    assert load_tokenizer(task.tokenizer).token_to_id("<|end|>") == 0
    assert tokens_of(task, "train") == b + c
    assert tokens_of(task, "validation") == a
    assert tokens_of(task, "test") == d + e
    limited = task_of(
        folder,
        folder,
        validation=["a.md"],
        test=["deep"],
        tokens={"train": 100, "test": 50},
    )
    assert tokens_of(limited, "train") == [n for n in b + c if n][:100]
    assert tokens_of(limited, "validation") == a[:-1]
    assert len(tokens_of(limited, "test")) == 50
    cut = task_of(folder, folder, tokens={"train": 100, "validation": 40})
    assert [len(tokens_of(cut, split)) for split in SPLITS[:2]] == [100, 40]
    everything = task_of(folder, folder)
    assert tokens_of(cut, "train") == tokens_of(everything, "train")[:100]
    assert tokens_of(cut, "test") == tokens_of(everything, "test")


def test_patterns_files_and_encodings(folder: Path) -> None:
    plain = task_of([folder / "a.md", folder / "b.txt"], folder)
    marked, wide, lines = (folder / name for name in ("marked.x", "wide.x", "lines.x"))
    a, b = ((folder / name).read_text(encoding="utf-8") for name in ("a.md", "b.txt"))
    marked.write_bytes(a.encode("utf-8-sig"))
    wide.write_bytes(b.encode("utf-16"))
    lines.write_bytes(b.replace("\n", "\r\n").encode())
    assert task_of([marked, wide], folder).data_hash() == plain.data_hash()
    assert task_of([marked, lines], folder).data_hash() == plain.data_hash()
    assert task_of([lines, marked], folder).data_hash() != plain.data_hash()
    assert task_of(folder, folder, pattern="[mw]*.x").data_hash() == plain.data_hash()
    assert task_of(folder / "[ab].*", folder).data_hash() == plain.data_hash()


def test_line_ends_at_the_border_of_two_chunks(folder: Path) -> None:
    """A file is read a mebibyte at a time; "\\r\\n" may lie across."""
    long = folder / "long.x"
    long.write_bytes(b"a" * ((1 << 20) - 1) + b"\r\n" + "ü".encode() * 40 + b"\r" + b"end\n" * 50)
    expected = "a" * ((1 << 20) - 1) + "\n" + "ü" * 40 + "\n" + "end\n" * 50
    task = task_of(long, folder)
    found = [number for split in SPLITS for number in tokens_of(task, split)]
    assert load_tokenizer(task.tokenizer).decode(found) == expected


def test_rows_of_parquet_and_arrow_are_documents(folder: Path) -> None:
    rows = [text(3, n) for n in range(0, 60, 3)]
    table = pyarrow.table(
        {"body": [rows[0], None, *(row.replace("\n", "\r\n") for row in rows[1:])], "n": [1] * 21}
    )
    parquet.write_table(table, folder / "rows.parquet", row_group_size=4)
    task = task_of(folder / "rows.parquet", folder, column="body", separator="<|end|>")
    expected = [number for row in rows for number in [*ids_of(folder, row), 0]]
    assert [n for split in SPLITS for n in tokens_of(task, split)] == expected
    saved = save_as_datasets_does(table, folder / "saved")
    again = task_of(saved, folder, column="body", separator="<|end|>")
    assert again.data_hash() == task.data_hash()
    both = folder / "both"
    both.mkdir()
    shutil.move(saved, both / "train")
    (both / "dataset_dict.json").write_text('{"splits": ["train", "test"]}', encoding="utf-8")
    with pytest.raises(DataError, match=r"several data sets; give one of them: .*both/train, "):
        task_of(both, folder).data_hash()


def save_as_datasets_does(table: Any, folder: Path) -> Path:
    """The files that `save_to_disk` of the package datasets leaves."""
    folder.mkdir()
    with (
        pyarrow.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pyarrow.ipc.new_stream(file, table.schema) as writer,
    ):
        writer.write_table(table, max_chunksize=7)
    state = {"_data_files": [{"filename": "data-00000-of-00001.arrow"}], "_split": None}
    (folder / "state.json").write_text(json.dumps(state), encoding="utf-8")
    (folder / "dataset_info.json").write_text("{}", encoding="utf-8")
    return folder


def test_a_second_load_reads_no_text(folder: Path) -> None:
    first = task_of(folder, folder)
    first.data_hash()
    saved = {path: path.stat().st_mtime_ns for path in (folder.parent / "cache").iterdir()}
    times = {}
    for path in first.files()["train"]:
        # Another text of the same size and time of change: only who reads it could tell.
        status = path.stat()
        path.write_bytes(b"\xff" * status.st_size)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        times[path] = status.st_mtime_ns
    again = pickle.loads(pickle.dumps(first))
    assert again.data_hash() == first.data_hash()
    assert tokens_of(again, "test") == tokens_of(first, "test")
    assert saved == {p: p.stat().st_mtime_ns for p in (folder.parent / "cache").iterdir()}
    # A changed file is read again.
    path, changed = next(iter(times.items()))
    os.utime(path, ns=(changed, changed + 1))
    with pytest.raises(DataError, match="cannot be read as UTF-8"):
        task_of(folder, folder).data_hash()


def test_a_task_is_small_and_its_batches_are_all_that_is_in_memory(folder: Path) -> None:
    task = task_of(folder, folder)
    unread = len(pickle.dumps(task))
    task.sample(4)
    assert len(pickle.dumps(task)) == unread < 2000
    examples: Any = task.splits.train
    assert isinstance(examples.tokens.mapped, np.memmap)
    assert np.shares_memory(examples.windows, examples.tokens.mapped)
    assert examples.tokens.mapped.dtype == np.uint16


def test_ids_above_two_bytes_are_kept(folder: Path) -> None:
    words = {f"w{number}": number for number in range(70_000)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="w0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(folder.parent / "tokenizer.json"))
    (folder / "words.x").write_text(" ".join(f"w{n}" for n in range(69_000, 70_000)))
    task = task_of(folder / "words.x", folder)
    assert [n for split in SPLITS for n in tokens_of(task, split)] == list(range(69_000, 70_000))
    assert int(task.sample(56).max()) > 1 << 16


def _hash(folder: Path, barrier: Any, found: Any) -> None:
    task = task_of(folder, folder)
    barrier.wait()
    found.put((task.data_hash(), task.splits.train.tokens.path.stat().st_mtime_ns))  # type: ignore[attr-defined]


def test_processes_wait_for_the_one_that_writes(folder: Path) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, found = context.Barrier(2), context.Queue()
    both = [context.Process(target=_hash, args=(folder, barrier, found)) for _ in range(2)]
    for process in both:
        process.start()
    first, second = found.get(timeout=120), found.get(timeout=120)
    for process in both:
        process.join(timeout=60)
    assert first == second
    assert len(list((folder.parent / "cache").glob("*.npy"))) == 1
    assert not list((folder.parent / "cache").glob(".*.aside"))


def test_a_damaged_cache_is_made_again(folder: Path) -> None:
    task = task_of(folder, folder)
    before = task.data_hash()
    path = task.splits.train.tokens.path  # type: ignore[attr-defined]
    for damage in (path.read_bytes()[:-10], b"", b"nothing like it"):
        path.write_bytes(damage)
        assert task_of(folder, folder).data_hash() == before
    path.with_suffix(".json").write_text("{")
    assert task_of(folder, folder).data_hash() == before


MEMORY = """
import resource, sys, tracemalloc
from pathlib import Path
from nas_theseus.tasks import text_files

folder = Path(sys.argv[1])
def task(name):
    return text_files(
        folder / name, tokenizer=folder / "tokenizer.json", cache=folder / "cache", context=16
    )
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
task("small.txt").data_hash()
before = peak()
tracemalloc.start()
large = task("large.txt")
large.data_hash()
print(large.size("train"), tracemalloc.get_traced_memory()[1], peak() - before)
"""


def test_a_large_text_is_encoded_in_little_memory(folder: Path) -> None:
    beside = folder.parent
    size = 50 << 20
    # Long words of few tokens, so that there is much text and little work.
    words = {f"{'w' * 400}{number}": number for number in range(64)}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token=f"{'w' * 400}0"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    made.save(str(beside / "tokenizer.json"))
    line = " ".join(words) + "\n"
    (beside / "small.txt").write_text(line * 100, encoding="utf-8")
    (beside / "large.txt").write_text(line * (size // len(line)), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, str(beside)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )
    assert done.returncode == 0, done.stderr
    windows, traced, resident = map(int, done.stdout.split())
    assert windows == (int(size // len(line) * 64 * 0.9) - 1) // 16
    assert traced < 12 << 20
    assert resident < 40 << 20


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "nowhere"}, "there is no nowhere in .*; give a file, a folder, or a pattern"),
        ({"train": []}, "train needs at least one file or folder"),
        ({"train": "empty"}, r"no file in .*empty matches \*.txt or \*.md .*; give pattern="),
        ({"pattern": "*.html"}, r"no file in .*texts matches \*.html; give pattern="),
        ({"validation": "a.md"}, "test is missing; give both validation and test, or neither"),
        ({"validation": "x.md", "test": "a.md"}, "there is no x.md in .*texts or "),
        ({"validation": "a.md", "test": "a.md"}, "a.md is both in validation and in test"),
        ({"train": "texts/a.md", "validation": "texts/a.md", "test": "texts/b.txt"}, "every file"),
        ({"tokens": {"train": 10}}, "train split has 10 tokens, a window of context 16 needs 17"),
        ({"tokens": {"all": 10}}, "for any of train, validation, test, not 10 for 'all'"),
        ({"context": 500}, "validation split has .* tokens, a window of context 500 needs 501"),
        ({"context": 0}, "context is at least 1, not 0"),
        ({"vocabulary": 200}, "has 300 tokens and the vocabulary 200: .* of another model"),
        ({"separator": "</s>"}, "has no token '</s>'"),
        ({"tokenizer": "none.json"}, "there is no .*none.json; give a tokenizer.json"),
        ({"cache": "texts/a.md"}, "cannot be written: .*; choose another with cache="),
        ({"train": "latin.x"}, "latin.x cannot be read as UTF-8 text: .* at byte 1,100,003; save"),
        ({"train": "wide.x"}, "wide.x has NUL characters, as text in UTF-16 without"),
        ({"train": "broken.parquet"}, "broken.parquet cannot be read as Parquet"),
        ({"train": "rows.parquet"}, "has no column 'text'; give column= one of body, n"),
        ({"train": "rows.parquet", "column": "n"}, "column 'n' holds int64, not text; .* of body"),
        ({"train": "short.x"}, "train split has .* tokens"),
    ],
)
def test_what_cannot_be_read_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, change: dict[str, Any], message: str
) -> None:
    beside = folder.parent
    monkeypatch.chdir(beside)
    (beside / "empty").mkdir()
    (beside / "latin.x").write_bytes(b"abc\n" * 275_000 + b"caf\xe9 cr\xe8me")
    (beside / "wide.x").write_bytes("plain words\n".encode("utf-16-le") * 50)
    (beside / "short.x").write_text("a few\n")
    (beside / "broken.parquet").write_bytes(b"PAR1 and no more")
    parquet.write_table(pyarrow.table({"body": ["a"], "n": [1]}), beside / "rows.parquet")
    options = {"train": "texts", "tokenizer": "tokenizer.json", "context": 16, "cache": "cache"}
    with pytest.raises((DataError, StorageError), match=message):
        text_files(**{**options, **change}).data_hash()
    assert not list(beside.glob("cache/.*.aside"))


def test_a_vocabulary_may_be_rounded_up(folder: Path) -> None:
    task = task_of(folder, folder, vocabulary=320)
    assert task.outputs.shape == (16, 320)
    assert len(task.token_bytes()) == 320


def test_too_little_disk_is_told_before_the_text_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(folder)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100))
    with pytest.raises(DataError, match=r"need about .* MB in .*cache, where 0.0 MB are free;"):
        task_of(folder, folder).data_hash()
    assert task_of(folder, folder, tokens={"train": 40}, validation="a.md", test="b.txt")


def test_orders_and_hashes(folder: Path) -> None:
    task = task_of(folder, folder)
    assert torch.equal(task.sample(5), task_of(folder, folder).sample(5))
    assert torch.equal(task.sample(5), next(task.batches("train", 5)).inputs)
    other = task_of(folder, folder, seed=1)
    assert not torch.equal(other.sample(5), task.sample(5))
    hashes = {
        task_of(folder, folder, **options).data_hash()
        for options in ({}, {"seed": 1}, {"context": 8}, {"tokens": {"train": 100}})
    }
    assert len(hashes) == 4
    # The content alone counts, not where it is.
    moved = folder.rename(folder.with_name("moved"))
    assert task_of(moved, folder).data_hash() == task.data_hash()


def test_text_of_ones_own_is_encoded_as_the_task_reads_it(folder: Path) -> None:
    task = task_of(folder, folder)
    own = (folder / "c.rst").read_text(encoding="utf-8")
    assert task.encode(own).tolist() == ids_of(folder, own)
    assert task.encode(own).dtype == torch.int64
    assert task.decode(task.encode(own)) == load_tokenizer(task.tokenizer).decode(
        ids_of(folder, own)
    )

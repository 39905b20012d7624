"""Language modelling: segments, windows, vocabularies and perplexity."""

from __future__ import annotations

import math
import pickle
from pathlib import Path

import pytest
import torch
from torch import Tensor

from nas_theseus.errors import DataError, ShapeError
from nas_theseus.tasks.task import SPLITS, Task
from nas_theseus.tasks.text import text_file

LINE = "the quick brown fox jumps over the lazy dog, and {} comes after {}.\n"


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    path = tmp_path / "corpus.txt"
    path.write_text("".join(LINE.format(n + 1, n) for n in range(300)), encoding="utf-8")
    return path


def windows(task: Task, split: str) -> tuple[Tensor, Tensor]:
    batches = list(task.batches(split, 7))  # type: ignore[arg-type]
    return torch.cat([b.inputs for b in batches]), torch.cat([b.targets for b in batches])


def test_characters_are_cut_into_contiguous_segments(corpus: Path) -> None:
    task: Task = text_file(corpus, context=16)
    text = corpus.read_text(encoding="utf-8")
    train_end = int(len(text) * 0.9)
    validation_end = train_end + int(len(text) * 0.05)
    letters = sorted(set(text[:train_end]))
    assert task.inlet.shape == (16,)
    assert task.inlet.integer
    assert task.outputs.shape == (16, len(letters) + 1)
    # Decode by frequency, derived here again: every window must be the text it was cut from.
    by_frequency = sorted(letters, key=lambda one: (-text[:train_end].count(one), one))
    segments = (text[:train_end], text[train_end:validation_end], text[validation_end:])
    for split, segment in zip(SPLITS, segments, strict=True):
        inputs, targets = windows(task, split)
        assert torch.equal(inputs[:, 1:], targets[:, :-1])
        decoded = {
            "".join(by_frequency[i - 1] for i in [*row.tolist(), int(last)])
            for row, last in zip(inputs, targets[:, -1], strict=True)
        }
        count = (len(segment) - 1) // 16
        assert decoded == {segment[16 * i : 16 * i + 17] for i in range(count)}
        assert task.size(split) == count


def test_rare_and_unseen_characters_share_one_token(tmp_path: Path) -> None:
    path = tmp_path / "small.txt"
    path.write_text("aaab" * 90 + "ab☃c" * 10, encoding="utf-8")
    full = text_file(path, context=4)
    assert full.outputs.shape == (4, 3)
    assert 0 not in windows(full, "train")[0]
    assert set(windows(full, "test")[0].flatten().tolist()) == {0, 1, 2}
    limited = text_file(path, context=4, vocabulary=2)
    assert limited.outputs.shape == (4, 2)
    assert set(windows(limited, "train")[0].flatten().tolist()) == {0, 1}


def test_text_of_ones_own_is_encoded_as_the_task_reads_it(corpus: Path) -> None:
    task = text_file(corpus, context=16)
    first = windows(task, "validation")[0][0]
    text = corpus.read_text(encoding="utf-8")
    segment = text[int(len(text) * 0.9) :][:16]
    assert (
        task.encode(segment).tolist() == first.tolist()
        and task.encode(segment).dtype == first.dtype
    )
    assert task.decode(first) == segment
    assert task.encode("☃").tolist() == [0] and task.decode([0]) == "\ufffd"
    assert task.encode("").shape == (0,)
    with pytest.raises(IndexError):
        task.decode([task.outputs.shape[1]])


def test_outputs_are_known_without_reading_where_the_vocabulary_is_given() -> None:
    assert text_file("nowhere.txt", vocabulary=50).outputs.shape == (128, 50)
    assert text_file("nowhere.txt", level="bpe").outputs.shape == (128, 4096)
    with pytest.raises(DataError, match=r"nowhere.txt cannot be read"):
        _ = text_file("nowhere.txt").outputs


def test_files_are_joined_in_the_given_order(corpus: Path, tmp_path: Path) -> None:
    text = corpus.read_text(encoding="utf-8")
    pieces = [tmp_path / "1.txt", tmp_path / "2.txt"]
    pieces[0].write_text(text[:5000], encoding="utf-8")
    pieces[1].write_text(text[5000:], encoding="utf-8")
    assert text_file(pieces).data_hash() == text_file(corpus).data_hash()
    assert text_file(pieces[::-1]).data_hash() != text_file(corpus).data_hash()


def test_orders_hashes_and_samples(corpus: Path) -> None:
    task = text_file(corpus, context=16)
    first, *_ = next(task.batches("train", 32, seed=1))
    again, *_ = next(text_file(corpus, context=16).batches("train", 32, seed=1))
    other, *_ = next(task.batches("train", 32, seed=2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert task.sample(5).shape == (5, 16)
    assert torch.equal(task.sample(5), windows(task, "train")[0][:5])
    assert not torch.equal(task.sample(9), text_file(corpus, context=16, seed=1).sample(9))
    assert text_file(corpus, context=8).data_hash() != task.data_hash()
    unread = len(pickle.dumps(text_file(corpus, context=16)))
    assert len(pickle.dumps(task)) == unread


def test_loss_and_perplexity_against_their_definitions(corpus: Path) -> None:
    task = text_file(corpus, context=16)
    vocabulary = task.outputs.shape[1]
    _, targets, _ = next(task.batches("validation", 3))
    uniform = torch.zeros(3, 16, vocabulary)
    assert float(task.loss(uniform, targets)) == pytest.approx(math.log(vocabulary), rel=1e-5)
    meter = task.meter()
    meter.update(uniform, targets)
    assert meter.compute() == pytest.approx(vocabulary, rel=1e-5)
    logits = torch.randn(3, 16, vocabulary, generator=torch.Generator().manual_seed(0))
    by_hand = -sum(
        float(logits[i, j].log_softmax(0)[targets[i, j]]) for i in range(3) for j in range(16)
    )
    meter.reset()
    meter.update(logits, targets)
    assert meter.compute() == pytest.approx(math.exp(by_hand / 48), rel=1e-5)
    meter.update(1e5 * logits, targets)
    assert meter.compute() == math.inf
    with pytest.raises(ShapeError, match=r"expected \(3, 16, "):
        task.loss(logits[:, :-1], targets)


@pytest.mark.parametrize(("level", "vocabulary"), [("character", None), ("bpe", 400)])
def test_bits_per_byte_against_the_text_itself(
    corpus: Path, level: str, vocabulary: int | None
) -> None:
    if level == "bpe":
        pytest.importorskip("tokenizers", reason="the optional extra text is not installed")
    text = corpus.read_text(encoding="utf-8").replace("dog", "dög")
    corpus.write_text(text, encoding="utf-8")
    task = text_file(
        corpus,
        level=level,  # type: ignore[arg-type]
        context=8,
        vocabulary=vocabulary,
        metric="bits_per_byte",
    )
    count = task.outputs.shape[1]
    _, targets = windows(task, "validation")
    meter = task.meter()
    meter.update(torch.zeros(*targets.shape, count), targets)
    # The windows' targets are the segment from its second token on, less a rest.
    start = int(len(text) * 0.9)
    segment = text[start : start + int(len(text) * 0.05)]
    size = int(task.token_bytes()[targets].sum())
    if level == "character":
        assert size == len(segment[1 : 1 + targets.numel()].encode())
    else:
        assert 0 < len(segment.encode()) - size < 60
    bits = targets.numel() * math.log2(count) / size
    assert meter.compute() == pytest.approx(bits, rel=1e-5)
    assert task.direction == "minimize"


def test_bpe_learns_on_training_text_alone(corpus: Path) -> None:
    pytest.importorskip("tokenizers", reason="the optional extra text is not installed")
    task = text_file(corpus, level="bpe", context=8, vocabulary=400)
    assert task.outputs.shape == (8, 400)
    inputs, _ = windows(task, "train")
    assert 256 <= int(inputs.max()) < 400
    line = corpus.read_text(encoding="utf-8").splitlines()[0]
    assert len(task.encode(line)) < len(line) and task.decode(task.encode(line)) == line
    assert int(windows(task, "test")[1].max()) < 400
    characters = int(len(corpus.read_text(encoding="utf-8")) * 0.9)
    assert inputs.numel() < characters / 2
    before = task.data_hash()
    # A changed end of the file changes only the test segment.
    text = corpus.read_text(encoding="utf-8")
    corpus.write_text(text[:-40] + "#" * 40, encoding="utf-8")
    assert text_file(corpus, level="bpe", context=8, vocabulary=400).data_hash() == before


def test_a_tokenizer_that_cuts_or_fills_up_reads_all_of_the_text(
    corpus: Path, tmp_path: Path
) -> None:
    """Files of sentence encoders say how long a sentence may be; a text is longer."""
    tokenizers = pytest.importorskip("tokenizers", reason="the optional extra text is missing")
    learnt = tokenizers.ByteLevelBPETokenizer()
    learnt.train([str(corpus)], vocab_size=300, show_progress=False)
    learnt.save(str(tmp_path / "plain.json"))
    learnt.enable_truncation(max_length=16)
    learnt.enable_padding(length=10_000)
    learnt.save(str(tmp_path / "cutting.json"))
    plain, cutting = (
        text_file(corpus, level="bpe", context=8, tokenizer=tmp_path / f"{name}.json")
        for name in ("plain", "cutting")
    )
    assert cutting.data_hash() == plain.data_hash()


def test_text_that_is_too_short_or_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "short.txt"
    path.write_text("abcdefghij" * 4, encoding="utf-8")
    with pytest.raises(DataError, match=r"validation segment has 2 tokens, .* context 4 needs 5"):
        text_file(path, context=4).size("train")
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="train segment has 0 tokens"):
        text_file(path).size("train")
    path.write_bytes(b"caf\xe9 cr\xe8me")
    with pytest.raises(DataError, match="cannot be read as UTF-8 text"):
        text_file(path).size("train")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
def test_a_byte_order_mark_is_no_token(corpus: Path, tmp_path: Path, encoding: str) -> None:
    marked = tmp_path / "marked.txt"
    marked.write_bytes(corpus.read_text(encoding="utf-8").encode(encoding))
    assert text_file(marked, context=16).data_hash() == text_file(corpus, context=16).data_hash()


@pytest.mark.parametrize("line_end", ["\r\n", "\r"])
def test_line_ends_are_alike_whatever_system_they_are_from(
    corpus: Path, tmp_path: Path, line_end: str
) -> None:
    other = tmp_path / "other.txt"
    other.write_bytes(corpus.read_bytes().replace(b"\n", line_end.encode()))
    assert text_file(other, context=16).data_hash() == text_file(corpus, context=16).data_hash()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("plain words\n".encode("utf-16-le") * 50, "has NUL characters, as text in UTF-16 without"),
        ("plain words\n".encode("utf-16-be") * 50, "save it in UTF-8"),
        (b"\xff\xfea", "cannot be read as UTF-16 text: .*; save it in UTF-8"),
        (b"\x00\x01\x02" * 500, "or a file that is no text"),
    ],
)
def test_files_that_are_not_quite_text_are_named(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "strange.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as refusal:
        text_file(path, context=4).size("train")
    assert str(path) in str(refusal.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "word"}, "'character' or 'bpe', not 'word'"),
        ({"context": 0}, "context is at least 1"),
        ({"vocabulary": 1}, "vocabulary at least 2"),
        ({"level": "bpe", "vocabulary": 255}, "vocabulary at least 256"),
    ],
)
def test_impossible_settings_are_refused_at_once(options: dict[str, object], message: str) -> None:
    with pytest.raises(DataError, match=message):
        text_file("any.txt", **options)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least one file"):
        text_file([])

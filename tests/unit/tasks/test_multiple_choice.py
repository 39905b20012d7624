"""Multiple-choice accuracy: against likelihoods by hand, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_theseus.errors import CostError, DataError
from nas_theseus.space.objectives import maximize
from nas_theseus.tasks import MultipleChoice, multiple_choice
from nas_theseus.tasks.multiple_choice import read_questions
from nas_theseus.tasks.tokenizing import load_tokenizer
from nas_theseus.values.architecture import Boundary
from tests.unit.tasks.token_files import make_tokenizer

CONTEXT = 24
QUESTIONS = [
    ("the quick brown fox", [" jumps", " sleeps and sleeps", " over"], 0),
    ("over the lazy", [" dog", " cat"], 1),
    ("and 5 comes after", [" 4", " four", " 6", " six"], 2),
    ("the the the the the the the the the the the the the the", [" fox", " dog"], 1),
]


class Recurrent(nn.Module):
    """A causal network that needs exactly its context, as one with learnt positions does."""

    def __init__(self, vocabulary: int = 300) -> None:
        super().__init__()
        self.embed = nn.Embedding(vocabulary, 16)
        self.cell = nn.GRU(16, 16, batch_first=True)
        self.drop = nn.Dropout()
        self.head = nn.Linear(16, vocabulary)

    def forward(self, ids: Tensor) -> Tensor:
        assert ids.shape[1] == CONTEXT
        out: Tensor = self.head(4 * self.drop(self.cell(self.embed(ids))[0]))
        return out


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    return make_tokenizer(tmp_path / "tokenizer.json")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write(tmp_path / "questions.jsonl", QUESTIONS)


def write(path: Path, questions: list[tuple[str, list[str], int]]) -> Path:
    names = ("context", "choices", "answer")
    lines = [json.dumps(dict(zip(names, one, strict=True))) for one in questions]
    path.write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    return path


def network(seed: int) -> Recurrent:
    torch.manual_seed(seed)
    return Recurrent()


@torch.no_grad()
def by_hand(net: Recurrent, tokenizer: Path, per: str) -> float:
    """Token by token, each from the at most CONTEXT tokens of the last window before it."""
    encoding = load_tokenizer(tokenizer)
    net.eval()
    right = 0
    for context, choices, answer in QUESTIONS:
        scores = []
        for choice in choices:
            ids = encoding.encode(context + choice).ids
            first = len(encoding.encode(context).ids)
            start = max(0, len(ids) - 1 - CONTEXT)
            nats = 0.0
            for position in range(first, len(ids)):
                seen = ids[start:position]
                row = torch.tensor([seen + [5] * (CONTEXT - len(seen))])
                shares = net(row)[0, len(seen) - 1].double().softmax(0)
                nats += math.log(shares[ids[position]])
            length = {"choice": 1, "token": len(ids) - first, "byte": len(choice.encode())}[per]
            scores.append(nats / length)
        right += max(range(len(scores)), key=scores.__getitem__) == answer
    return right / len(QUESTIONS)


@pytest.mark.parametrize("per", ["choice", "token", "byte"])
def test_the_likeliest_choice_by_hand(file: Path, tokenizer: Path, per: Any) -> None:
    found = []
    for seed in range(6):
        net = network(seed).train()
        found.append(multiple_choice(net, tokenizer, file, context=CONTEXT, per=per, batch_size=3))
        assert net.training
        assert found[-1] == by_hand(net, tokenizer, per)
    assert len(set(found)) > 1


def test_lengths_decide_between_short_and_long_choices(tmp_path: Path, tokenizer: Path) -> None:
    """With equal shares for all tokens a short choice is likelier, and as likely a token."""
    file = write(tmp_path / "short.jsonl", [("the", [" fox jumps over", " dog"], 1)])
    net = network(0)
    nn.init.zeros_(net.head.weight), nn.init.zeros_(net.head.bias)
    assert multiple_choice(net, tokenizer.parent, file, context=CONTEXT) == 1
    assert multiple_choice(net, tokenizer.parent, file, context=CONTEXT, per="token") == 0


def test_a_choice_that_changes_the_contexts_last_token(tmp_path: Path, tokenizer: Path) -> None:
    encoding = load_tokenizer(tokenizer)
    before, whole = (encoding.encode(one).ids for one in ("lazy d", "lazy dog"))
    assert before[-1] not in whole, "else the test shows nothing"
    file = write(tmp_path / "inside.jsonl", [("lazy d", ["og", "igs"], 0)])
    found = []
    for seed in range(8):
        net = network(seed).eval()
        scores = []
        for text in ("lazy dog", "lazy digs"):
            ids = encoding.encode(text).ids
            first = next((n for n, same in enumerate(before) if ids[n] != same), len(before))
            nats = net(torch.tensor([ids + [0] * (CONTEXT - len(ids))]))[0].log_softmax(-1)
            each = [nats[n - 1, ids[n]].item() for n in range(first, len(ids))]
            scores.append(sum(each) / len(each))
        found.append(multiple_choice(net, tokenizer, file, context=CONTEXT, per="token"))
        assert found[-1] == (scores[0] > scores[1])
    assert len(set(found)) == 2


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("not json", "line 2 is no question: JSONDecodeError.*; each line is like"),
        ("[1]", "line 2 is no question: TypeError"),
        ('{"context": "a", "choices": ["b", "c"]}', r"line 2 is no question: KeyError\('answer'\)"),
        ('{"context": "", "choices": ["b", "c"], "answer": 0}', "line 2: context must be a text"),
        ('{"context": "a", "choices": ["b"], "answer": 0}', "line 2: choices must be two texts"),
        ('{"context": "a", "choices": ["b", ""], "answer": 0}', "choices must be two texts"),
        ('{"context": "a", "choices": "bc", "answer": 0}', "choices must be two texts"),
        (
            '{"context": "a", "choices": ["b", "c"], "answer": 2}',
            "index of a choice, 0 to 1, not 2",
        ),
        ('{"context": "a", "choices": ["b", "c"], "answer": true}', "0 to 1, not True"),
    ],
)
def test_lines_that_are_no_question_are_named(tmp_path: Path, line: str, message: str) -> None:
    file = write(tmp_path / "wrong.jsonl", QUESTIONS[:1])
    good = file.read_text(encoding="utf-8").strip()
    file.write_text(f"{good}\n{line}\n", encoding="utf-8")
    with pytest.raises(DataError, match=message) as refusal:
        read_questions(file)
    assert str(file) in str(refusal.value)


def test_what_cannot_be_scored_is_refused(tmp_path: Path, tokenizer: Path, file: Path) -> None:
    with pytest.raises(DataError, match="nowhere.jsonl cannot be read"):
        multiple_choice(network(0), tokenizer, "nowhere.jsonl", context=CONTEXT)
    with pytest.raises(DataError, match="there is no .*none.json"):
        multiple_choice(network(0), tmp_path / "none.json", file, context=CONTEXT)
    with pytest.raises(DataError, match=r"question 1, choice 1: ' sleeps and sleeps' is \d+ token"):
        multiple_choice(network(0), tokenizer, file, context=2)
    with pytest.raises(DataError, match="per is 'choice', 'token' or 'byte', not 'word'"):
        multiple_choice(network(0), tokenizer, file, context=CONTEXT, per="word")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="at least 1, not 0 and 16"):
        multiple_choice(network(0), tokenizer, file, context=0)
    file.write_text("\n", encoding="utf-8")
    with pytest.raises(DataError, match="has no question"):
        read_questions(file)


def test_it_is_an_objective_of_searches(tokenizer: Path, file: Path) -> None:
    torch.manual_seed(0)
    network, place = Recurrent(), (torch.device("cpu"), None)
    measure = MultipleChoice(tokenizer, file, per="byte", name="fox_accuracy")
    expected = multiple_choice(network, tokenizer, file, context=CONTEXT, per="byte")
    assert measure.measure(network, Boundary((CONTEXT,), integer=True), *place) == expected
    objective = maximize(measure)
    assert (objective.name, objective.direction) == ("fox_accuracy", "maximize")
    with pytest.raises(CostError, match="fox_accuracy is for networks that read token ids"):
        measure.measure(network, Boundary((3, 8, 8)), *place)

"""Accuracy of a language model on multiple-choice questions in a JSON-lines file."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from nas_theseus.errors import CostError, DataError
from nas_theseus.storage.json_files import parse_json
from nas_theseus.tasks.text_reading import read_text
from nas_theseus.tasks.token_cache import default_cache
from nas_theseus.tasks.tokenizing import load_tokenizer, tokenizer_file
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.goals import Direction

Per: TypeAlias = Literal["choice", "token", "byte"]


@dataclass(frozen=True)
class Question:
    """One line of a file.

    Attributes:
        context: what stands before every choice.
        choices: two or more, each put behind the context as it is, so that most begin with a space.
        answer: index of the right choice.
    """

    context: str
    choices: tuple[str, ...]
    answer: int


@dataclass(frozen=True)
class _Row:
    """One choice as tokens.

    Attributes:
        question, choice: indices.
        ids: context and choice.
        scored: number of tokens at the end whose likelihood counts.
    """

    question: int
    choice: int
    ids: list[int]
    scored: int


def read_questions(path: str | Path) -> list[Question]:
    r"""Read multiple-choice questions, one JSON object a line; empty lines are skipped.

    For example ``{"context": "The sky is", "choices": [" blue", " square"], "answer": 0}``.

    Raises:
        DataError: the file cannot be read, has no question, or a line is not of this form.
    """
    path = Path(path).expanduser().absolute()
    lines = enumerate(read_text(path).split("\n"), start=1)
    found = [_question(f"{path}, line {number}", line) for number, line in lines if line.strip()]
    if not found:
        raise DataError(f"{path} has no question; give one JSON object a line")
    return found


def _question(where: str, line: str) -> Question:
    form = '{"context": "The sky is", "choices": [" blue", " square"], "answer": 0}'
    try:
        value = parse_json(line)
        context, choices, answer = value["context"], value["choices"], value["answer"]
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{where} is no question: {error!r}; each line is like {form}") from error
    if not isinstance(context, str) or not context:
        raise DataError(f"{where}: context must be a text that is not empty, not {context!r:.60}")
    texts = isinstance(choices, list) and all(isinstance(c, str) and c for c in choices)
    if not texts or len(choices) < 2:
        raise DataError(f"{where}: choices must be two texts or more, not {choices!r:.60}")
    if isinstance(answer, bool) or not isinstance(answer, int) or not 0 <= answer < len(choices):
        raise DataError(
            f"{where}: answer must be the index of a choice, 0 to {len(choices) - 1}, not "
            f"{answer!r}"
        )
    return Question(context, tuple(choices), answer)


def multiple_choice(
    network: nn.Module,
    tokenizer: str | Path,
    file: str | Path,
    *,
    context: int,
    per: Per = "choice",
    batch_size: int = 16,
) -> float:
    """Share of questions whose right choice is the likeliest one after its context.

    The likelihood of a choice is that of the tokens that the choice adds to the context's. Of a
    question that is longer than `context` tokens the beginning is left out. Equally likely choices
    count as wrong unless the right one comes first.

    Args:
        network: maps ids (B, context) to logits (B, context, V), each from the tokens up to its own
            alone, such as a guide or what `nas_theseus.load` returns; on any device.
        tokenizer: a ``tokenizer.json``, a folder with it, or a GGUF file.
        file: see `read_questions`.
        context: tokens the network sees at once.
        per: what log-likelihoods are divided by before they are compared. ``choice`` divides by
            nothing; ``byte`` (of UTF-8) and ``token`` do not favour short choices.
        batch_size: choices in a batch.

    Returns:
        The accuracy, in [0, 1].

    Raises:
        DataError: the file or the tokenizer cannot be read, or a choice is longer than `context`.
    """
    if per not in ("choice", "token", "byte"):
        raise DataError(f"multiple_choice: per is 'choice', 'token' or 'byte', not {per!r}")
    if context < 1 or batch_size < 1:
        raise DataError(
            f"multiple_choice: context and batch_size are at least 1, not {context} and "
            f"{batch_size}"
        )
    questions = read_questions(file)
    encoding = load_tokenizer(tokenizer_file(tokenizer, default_cache()))
    rows = [
        row for index, one in enumerate(questions) for row in _rows(encoding, index, one, context)
    ]
    scores = [[0.0] * len(question.choices) for question in questions]
    for row, score in zip(rows, _scores(network, rows, context, batch_size), strict=True):
        choice = questions[row.question].choices[row.choice]
        length = {"choice": 1, "token": row.scored, "byte": len(choice.encode())}[per]
        scores[row.question][row.choice] = score / length
    right = sum(
        found.index(max(found)) == question.answer
        for found, question in zip(scores, questions, strict=True)
    )
    return right / len(questions)


@dataclass(frozen=True)
class MultipleChoice:
    """`multiple_choice` as an objective or constraint: ``maximize(MultipleChoice(...))``.

    It is measured once on each finished network.

    Attributes:
        tokenizer, file, per: as for `multiple_choice`; the context is that of the networks.
        name: of the metric, such as ``arc_accuracy``, where a search has several files.
    """

    tokenizer: str | Path
    file: str | Path
    per: Per = "choice"
    name: str = "multiple_choice"

    unit = "share"
    direction: Direction = "maximize"
    additive = False

    def measure(
        self, network: nn.Module, inlet: Boundary, device: torch.device, threads: int | None
    ) -> float:
        """The accuracy.

        Raises:
            CostError: the networks read no token ids.
            DataError: as `multiple_choice`.
        """
        del device, threads
        if inlet.kind != "ids":
            raise CostError(
                f"{self.name} is for networks that read token ids, not {inlet}; leave it out"
            )
        tokens = inlet.shape[0]
        return multiple_choice(network, self.tokenizer, self.file, context=tokens, per=self.per)


def _rows(encoding: Any, index: int, question: Question, context: int) -> Iterator[_Row]:
    before = encoding.encode(question.context, add_special_tokens=False).ids
    for number, choice in enumerate(question.choices):
        ids = encoding.encode(question.context + choice, add_special_tokens=False).ids
        # The choice may change the context's last token, which then counts as well.
        pairs = zip(before, ids, strict=False)
        shared = next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(before), len(ids)))
        scored = len(ids) - max(1, shared)
        if not 1 <= scored <= context:
            raise DataError(
                f"question {index + 1}, choice {number}: {choice!r:.60} is {scored} tokens, but "
                f"the network sees {context} and a choice has at least 1; leave the question out"
            )
        yield _Row(index, number, ids[-context - 1 :], scored)


@torch.inference_mode()
def _scores(network: nn.Module, rows: list[_Row], context: int, batch_size: int) -> list[float]:
    """Log-likelihood of each choice, in nats."""
    device = next(network.parameters()).device
    was_training = network.training
    network.eval()
    found = []
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        # Filled up behind, where no token before sees it.
        inputs = torch.zeros(len(batch), context, dtype=torch.int64)
        for number, row in enumerate(batch):
            inputs[number, : len(row.ids) - 1] = torch.tensor(row.ids[:-1])
        outputs = network(inputs.to(device))
        found += [_log_likelihood(logits, row) for logits, row in zip(outputs, batch, strict=True)]
    network.train(was_training)
    return found


def _log_likelihood(logits: Tensor, row: _Row) -> float:
    end = len(row.ids) - 1
    at = logits[end - row.scored : end].float().log_softmax(-1)
    wanted = torch.tensor(row.ids[-row.scored :], device=logits.device)
    found = float(at.gather(1, wanted[:, None]).sum())
    return -math.inf if math.isnan(found) else found

"""Messages with their causes and remedies: each cause is produced, and each remedy is followed.

A case produces its cause, yields what the package says of it, and then does what the message says,
which has to help. Storages of studies have a table of their own: services/optuna/test_causes.py.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow
import numpy as np
import pytest
import safetensors.torch
import torch
from mlflow.tracking import MlflowClient
from PIL import Image
from torch import Tensor, nn

from nas_theseus import Boundary, Recipe, SearchSpace, block, cut, minimize
from nas_theseus.api.found import find_network
from nas_theseus.api.search import settings_of
from nas_theseus.blocks import Basic, Keep, Linear
from nas_theseus.blocks.simple import LinearBlock
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.target import assemble
from nas_theseus.errors import TheseusError
from nas_theseus.export.format import write_format
from nas_theseus.export.member import write_member
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.weights import load_weights, plain_state
from nas_theseus.searches.beginning import refuse_changes, refuse_mistakes
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.services.mlflow import recording
from nas_theseus.services.optuna.storage import reach
from nas_theseus.space.left_out import left_out
from nas_theseus.space.load import load_space
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.space.sources import gather, write_sources
from nas_theseus.storage.whole_files import write_tensors
from nas_theseus.tasks import digits, from_datasets, image_folder, own_metric, text_file
from nas_theseus.tasks.pictures import read_picture
from nas_theseus.values.architecture import Architecture, BlockChoice
from nas_theseus.values.outcomes import Cost, Evaluation
from tests.unit.export.members import VECTOR, between

CPU = torch.device("cpu")
Steps = Callable[[Path, pytest.MonkeyPatch], Iterator[str]]

# The kinds of faults that messages have to be right for.
KINDS = (
    "a name that is not unique",
    "code beside the space file",
    "a user's own parts",
    "the reason is shown",
    "the remedy fits the cause",
    "files as people have them",
    "splits are fair or told",
    "work that was done",
    "a space that shrinks",
)


@dataclass(frozen=True)
class Case:
    """One cause.

    Attributes:
        says: parts of the message, in order; the last is the remedy.
    """

    kind: str
    says: tuple[str, ...]
    steps: Steps


CASES: dict[str, Case] = {}


def case(kind: str, *says: str) -> Callable[[Steps], Steps]:
    def add(steps: Steps) -> Steps:
        CASES[steps.__name__] = Case(kind, says, steps)
        return steps

    return add


def refused(call: Callable[[], object]) -> str:
    with pytest.raises(TheseusError) as caught:
        call()
    return str(caught.value)


def convs(width: int = 4) -> nn.Sequential:
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 10))
    return nn.Sequential(nn.Conv2d(1, width, 3, 1, 1), nn.Conv2d(width, width, 3, 1, 1), head)


def space(*blocks: object, **changes: object) -> SearchSpace:
    given = {"guide": cut(convs(), ["0", "1"], (1, 8, 8)), "task": digits()}
    return SearchSpace(**{**given, "blocks": [Keep(), *blocks], **changes})  # type: ignore[arg-type]


FILE = """
from torch import nn
from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Keep, Linear
from nas_theseus.tasks import digits
import beside

def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(nn.Conv2d(1, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 1, 1), head)
    guide = cut(net, ["0", "1"], (1, 8, 8))
    return SearchSpace(guide=guide, task=digits(), blocks=[Keep(), Linear()])
"""


def write_file(folder: Path) -> Path:
    (folder / "beside.py").write_text("WIDTH = 1\n")
    path = folder / "mine.py"
    path.write_text(FILE)
    return path


# --- a name that is not unique ---


@case("a name that is not unique", "2 networks are called", "name one of them", "first/")
def an_id_on_two_fronts(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    path = write_file(folder)
    found = load_space(path)
    kept = found.guide_architecture()
    assert kept is not None
    for search in ("first", "second"):
        member = SearchFolder(folder, search).front / kept.id
        write_tensors(member / "weights.safetensors", plain_state(assemble(found, kept, 0)))
        evaluation = Evaluation(kept, "r", 0, {"val_accuracy": 0.5}, Cost({"macs": 1}), 0, 0.1)
        write_member(member, evaluation, member / "weights.safetensors", gather(path))
    yield refused(lambda: find_network(kept.id, folder, trust_code=True))
    assert find_network(f"first/{kept.id}", folder, trust_code=True).evaluation.architecture == kept


# --- code beside the space file ---


@case("code beside the space file", "a module that it imports", "choose another --name, or restore")
def a_helper_that_was_edited(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    path = write_file(folder)

    def launch(name: str) -> None:
        settings = settings_of(path, {"name": name, "storage": folder / "theseus"}, "search")
        refuse_changes(SearchFolder(folder / "theseus", name), settings, gather(path))

    begun = SearchFolder(folder / "theseus", "one")
    write_sources(begun.folder, gather(path))
    before = (folder / "beside.py").read_text()
    (folder / "beside.py").write_text("WIDTH = 2\n")
    yield refused(lambda: launch("one"))
    launch("two")
    (folder / "beside.py").write_text(before)
    launch("one")


# --- a user's own parts ---


class Spoilt(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return y if self.training else y * float("nan")


class Sound(LinearBlock):
    pass


class MeanMeter:
    """A user's own metric."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        self.right = self.seen = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += int((outputs.argmax(1) == targets).sum())
        self.seen += len(targets)

    def compute(self) -> float:
        return self.right / max(1, self.seen)


@case("a user's own parts", "block spoilt for part", "evaluation mode", "correct its forward()")
def a_block_that_gives_nan(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    vector = {
        "guide": cut(
            nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.Linear(8, 10)), ["1"], (1, 8, 8)
        ),
    }
    yield refused(lambda: refuse_mistakes(space(block(Spoilt), **vector), "mine.py"))
    refuse_mistakes(space(block(Sound), **vector), "mine.py")


@case("a user's own parts", "metric 'acc@5'", "only have letters, digits, '_' and '.'")
def a_metric_whose_name_mlflow_refuses(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    def named(name: str) -> SearchSpace:
        return space(task=digits(metric=own_metric(MeanMeter(), name, "maximize")))

    yield "\n".join(mistakes_in(named("acc@5")))
    assert mistakes_in(named("acc_5")) == []


class Energy:
    name, unit, direction, additive = "energy_mj", "mJ", "minimize", True


class CountedEnergy(Energy):
    def count(self, module: nn.Module, inlet: Boundary) -> float:
        return 2.0


@case("a user's own parts", "cost 'energy_mj'", "needs a method count(module, inlet)")
def a_cost_that_counts_nothing(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    yield refused(lambda: minimize(Energy()))  # type: ignore[arg-type]
    assert minimize(CountedEnergy()).name == "energy_mj"  # type: ignore[arg-type]


# --- the reason is shown ---


@case("the reason is shown", "block linear cannot replace part 1 in this space")
def a_part_is_named_as_the_guide_names_it(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    found = space(Linear().on("head"))
    named = Architecture(tuple(BlockChoice(found.span(i, i + 1), b) for i, b in enumerate(
        ["keep", "linear", "keep"])))  # fmt: skip
    yield str(found.refusal(named))
    assert space(Linear()).refusal(named) is None


# --- the remedy fits the cause ---


@case(
    "the remedy fits the cause", "holds an object of", "weights_only=False", "save the state dict"
)
def a_checkpoint_with_objects(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    model, path = nn.Linear(2, 2), folder / "mine.pt"
    torch.save({"state_dict": model.state_dict(), "space": BlockChoice}, path)
    yield refused(lambda: load_weights(model, path))
    torch.save(torch.load(path, weights_only=False)["state_dict"], folder / "plain.pt")
    load_weights(model, folder / "plain.pt")


@case("the remedy fits the cause", "is empty (0 bytes)", "copy or save it again")
def an_empty_checkpoint(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    model, path = nn.Linear(2, 2), folder / "mine.safetensors"
    path.touch()
    yield refused(lambda: load_weights(model, path))
    safetensors.torch.save_file(model.state_dict(), path)
    load_weights(model, path)


@case("the remedy fits the cause", "a guide", "is damaged", "Delete this file to train the guide")
def a_damaged_trained_guide(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    training = Recipe(epochs=0.1, distill=0)

    def prepare() -> Path:
        guide = cut(convs(), ["0", "1"], (1, 8, 8))
        return prepare_guide(guide, digits(), training, folder, CPU)

    torch.manual_seed(0)
    path = prepare()
    path.write_bytes(path.read_bytes()[:60])
    torch.manual_seed(0)
    yield "a guide: " + refused(prepare)
    path.unlink()
    torch.manual_seed(0)
    assert prepare() == path


class NeedsNine:
    """A user's own similarity."""

    name, aligned_basis, minimum_examples = "needs-nine", True, 9

    def prepare(self, guide: Tensor) -> Tensor:
        return guide

    def loss(self, features: Tensor, prepared: Tensor) -> Tensor:
        return (features - prepared).square().mean()


def aligned_with(size: int, **options: object) -> str | None:
    """What is said when digits are aligned in batches of a size; None if nothing is."""
    found = space(
        Linear().on("1"),
        recipe=Recipe(schedule="independent", epochs=0, align_steps=1, distill=0,
                      align_batch_size=size, **options),
    )  # fmt: skip
    named = Architecture(tuple(BlockChoice(found.span(i, i + 1), b) for i, b in enumerate(
        ["keep", "linear", "keep"])))  # fmt: skip
    try:
        result_of(Workshop(found, CPU).convert(named, 0))
    except TheseusError as error:
        return str(error)
    return None


@case(
    "the remedy fits the cause",
    "for part 1: similarity 'needs-nine' needs 9 examples",
    "a batch has 8 of 64",
    "raise align_batch_size",
)
def a_batch_with_too_few_examples(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    options = {"align_examples": 64, "similarity": NeedsNine()}
    said = aligned_with(8, **options)  # type: ignore[arg-type]
    yield str(said)
    assert aligned_with(16, **options) is None  # type: ignore[arg-type]


@case(
    "the remedy fits the cause", "a batch has 2 of 2", "raise align_examples, or add training data"
)
def too_few_examples_at_all(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    options = {"similarity": "cka-unbiased"}
    yield str(aligned_with(64, align_examples=2, **options))  # type: ignore[arg-type]
    assert aligned_with(64, align_examples=32, **options) is None  # type: ignore[arg-type]


@case("the remedy fits the cause", "database is locked", "wait until that process ends")
def a_study_that_another_process_holds(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    address = f"sqlite:///{folder / 'study.db'}?timeout=0.1"
    with closing(sqlite3.connect(folder / "study.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield refused(lambda: reach(address))
        other.execute("ROLLBACK")
    reach(address)


@case("the remedy fits the cause", "file is not a database", "give the study another file")
def a_study_that_is_damaged(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    (folder / "study.db").write_bytes(b"no database" * 500)
    yield refused(lambda: reach(f"sqlite:///{folder / 'study.db'}"))
    reach(f"sqlite:///{folder / 'another.db'}")


class OneByOne(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        return torch.stack([y[i] for i in range(x.shape[0])])


class AllAtOnce(LinearBlock):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).reshape(-1, *x.shape[1:])


@case(
    "the remedy fits the cause",
    "block 0: onebyone for part part works for one batch size only",
    "operations on the whole batch",
    "Other formats, which trace nothing: safetensors",
)
def a_network_for_one_batch_size(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    found = between(VECTOR, VECTOR, block(OneByOne))
    yield refused(lambda: write_format(found, "torch-export", folder / "net"))
    write_format(between(VECTOR, VECTOR, block(AllAtOnce)), "torch-export", folder / "net")
    write_format(found, "safetensors", folder / "other")


@case(
    "the remedy fits the cause",
    "artifact root",
    "of MLflow experiment 'nas-theseus' cannot be written",
    "set MLFLOW_EXPERIMENT_NAME to a new experiment",
)
def an_artifact_root_that_cannot_be_written(
    folder: Path, patch: pytest.MonkeyPatch
) -> Iterator[str]:
    def record() -> None:
        with recording("one", "conversion", {}) as run:
            run.keep(None, [], folder, {"result.txt": None})

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    patch.chdir(folder)
    patch.setenv("MLFLOW_TRACKING_URI", uri)
    patch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    patch.setattr(mlflow, "get_tracking_uri", lambda: uri)
    (folder / "result.txt").touch()
    root = str(folder / "result.txt" / "mlruns")
    MlflowClient(uri).create_experiment("nas-theseus", artifact_location=root)
    yield refused(record)
    patch.setenv("MLFLOW_EXPERIMENT_NAME", "another")
    record()
    assert list((folder / "mlruns").glob("*/*/artifacts/result.txt"))


# --- files as people have them ---


@case(
    "files as people have them",
    "huge.png is too large",
    "shrink it, or raise PIL.Image.MAX_IMAGE_PIXELS",
)
def a_picture_that_is_huge(folder: Path, patch: pytest.MonkeyPatch) -> Iterator[str]:
    path = folder / "huge.png"
    Image.new("RGB", (100, 100)).save(path)
    patch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    yield refused(lambda: read_picture(path))
    patch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    assert read_picture(path).size == (100, 100)
    patch.setattr(Image, "MAX_IMAGE_PIXELS", 4_000)
    Image.new("RGB", (50, 50)).save(path)
    assert read_picture(path).size == (50, 50)


@case("files as people have them", "deep.tif has values", "save it with 8 or 16 bits")
def a_picture_whose_white_is_not_known(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    path = folder / "deep.tif"
    values = np.array([[0.0, 300.0], [5.0, 9.0]])
    Image.fromarray(values.astype(np.float32)).save(path)
    yield refused(lambda: read_picture(path))
    Image.fromarray(values.astype(np.uint16)).save(path)
    read_picture(path)


@case("files as people have them", "text.txt has NUL characters", "save it in UTF-8")
def a_text_in_another_encoding(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    path, text = folder / "text.txt", "to be or not to be, that is the question\n" * 40
    path.write_bytes(text.encode("utf-16-le"))
    yield refused(lambda: text_file(path, context=8).size("train"))
    path.write_text(text, encoding="utf-8")
    assert text_file(path, context=8).size("train") > 0


@case("files as people have them", "is not a readable image", "remove it")
def a_picture_that_is_damaged(folder: Path, _: pytest.MonkeyPatch) -> Iterator[str]:
    for split in ("train", "test"):
        for number, name in enumerate(("cat", "dog")):
            (folder / split / name).mkdir(parents=True)
            for n in range(10):
                picture = Image.new("RGB", (8, 8), (20 * n, 90 * number, 0))
                picture.save(folder / split / name / f"{n}.png")
    damaged = folder / "train" / "cat" / "broken.png"
    damaged.write_bytes(b"no picture")

    def read() -> None:
        task = image_folder(folder, size=8, workers=0)
        for _ in task.batches("train", 4):
            pass
        for _ in task.batches("validation", 4):
            pass

    yield refused(read)
    damaged.unlink()
    read()


# --- splits are fair or told ---


@case("splits are fair or told", "training examples are of class", "needs two classes or more")
def data_of_one_class(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    def size(classes: int) -> int:
        data = [(torch.full((1, 4, 4), float(n)), n % classes) for n in range(20)]
        return from_datasets(data, data, (1, 4, 4), 2).size("train")

    yield refused(lambda: size(1))
    assert size(2) > 0


# --- work that was done ---


@case("work that was done", "training begins again at epoch 1: its checkpoint", "is damaged")
def a_damaged_checkpoint_of_the_guides_training(
    folder: Path, _: pytest.MonkeyPatch
) -> Iterator[str]:
    lines: list[str] = []

    def train(stop_after: int | None = None) -> list[int]:
        torch.manual_seed(0)
        guide = cut(convs(), ["0", "1"], (1, 8, 8))
        epochs: list[int] = []

        def progress(epoch: object) -> None:
            epochs.append(epoch.epoch)  # type: ignore[attr-defined]
            if len(epochs) == stop_after:
                raise KeyboardInterrupt

        recipe = Recipe(epochs=3, distill=0)
        with suppress(KeyboardInterrupt):
            prepare_guide(guide, digits(), recipe, folder, CPU, progress, lines.append)
        return epochs

    assert train(stop_after=2) == [0, 1]
    (path,) = folder.glob("*.checkpoint")
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert train(stop_after=1) == [0]
    yield lines[0]
    path.write_bytes(whole)  # restored
    assert train() == [2]


# --- a space that shrinks ---


@case(
    "a space that shrinks", "block basic left out of part 1: needs a whole stride", "pad the inputs"
)
def blocks_that_need_whole_strides(_: Path, __: pytest.MonkeyPatch) -> Iterator[str]:
    def strided(size: tuple[int, int]) -> SearchSpace:
        net = convs()
        net[1] = nn.Conv2d(4, 4, 3, 2, 1)
        guide: Guide = cut(net, ["0", "1"], (1, *size))
        return space(Basic(), guide=guide, keep=["head"])

    yield "\n".join(left_out(strided((7, 9))))
    assert left_out(strided((8, 10))) == []


@pytest.mark.parametrize("name", CASES)
def test_a_message_names_the_cause_and_a_remedy_that_helps(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = CASES[name]
    steps = told.steps(tmp_path, monkeypatch)
    message = " ".join(next(steps).split())
    position = 0
    for part in told.says:
        assert part in message[position:], message
        position = message.index(part, position)
    assert "Traceback" not in message and "\x1b" not in message
    # The remedy.
    with pytest.raises(StopIteration):
        next(steps)


def test_every_kind_has_a_case() -> None:
    assert {told.kind for told in CASES.values()} == set(KINDS)

"""Folders of pictures without labels: what is learnt, how it is split, and what is refused."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from nas_theseus.errors import DataError
from nas_theseus.guide.chain import Guide
from nas_theseus.space.mistakes import guide_mistakes
from nas_theseus.tasks import Preprocessing, UnlabelledTask, from_datasets, image_folder
from nas_theseus.tasks.contract import behaviour_mistakes, declaration_mistakes
from nas_theseus.tasks.score import score, scores
from nas_theseus.tasks.task import SPLITS


class Counting(nn.Module):
    """Counts the pictures that it is given."""

    def __init__(self) -> None:
        super().__init__()
        self.seen = 0

    def forward(self, inputs: Tensor) -> Tensor:
        self.seen += len(inputs)
        return inputs


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    """Thirty pictures of noise at several depths."""
    random = np.random.RandomState(0)
    for number in range(30):
        folder = tmp_path / ("", "a", "a/b")[number % 3]
        folder.mkdir(exist_ok=True, parents=True)
        pixels = random.randint(0, 256, (20 + number, 24, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def guide_of(classes: int = 5, seed: int = 0) -> Guide:
    torch.manual_seed(seed)
    head = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, classes))
    guide = Guide([("count", Counting()), ("head", head)], (3, 8, 8))
    guide.preprocessing = Preprocessing(8, 10, (0.5,) * 3, (0.5,) * 3, "bicubic")
    guide.weights_from = "torchvision:tiny IMAGENET1K_V1"
    return guide


def task_of(root: Path, guide: Any, **options: Any) -> UnlabelledTask:
    return image_folder(root, labels=False, guide=guide, workers=0, **options)


def files_of(task: UnlabelledTask, split: str) -> set[str]:
    base: Any = task.base
    return {path for path, _ in base.splits.of(split).files}


def test_all_pictures_are_split_and_learnt_from_the_guide(photographs: Path) -> None:
    guide = guide_of()
    task = task_of(photographs, guide)
    assert declaration_mistakes(task) == behaviour_mistakes(task, taught=True) == []
    assert (task.inlet.shape, task.outputs.shape) == ((3, 8, 8), (5,))
    assert [task.size(split) for split in SPLITS] == [24, 3, 3]
    files = [files_of(task, split) for split in SPLITS]
    assert set.union(*files) == {str(path) for path in photographs.rglob("*.png")}
    assert sum(map(len, files)) == 30
    for batch in task.batches("train", 8, seed=1):
        with torch.no_grad():
            assert torch.allclose(batch.targets, guide.eval()(batch.inputs), atol=1e-6)
    assert task_of(photographs, guide_of(seed=1)).data_hash() == task.data_hash()


def test_folders_for_train_and_test_are_the_splits(photographs: Path) -> None:
    for name, count in (("train", 20), ("val", 10)):
        (photographs / "split" / name).mkdir(parents=True)
        for path in list(photographs.glob("*.png")) + list(photographs.glob("a/**/*.png")):
            if count and path.exists():
                path.rename(photographs / "split" / name / path.name)
                count -= 1
    task = task_of(photographs / "split", guide_of())
    assert [task.size(split) for split in SPLITS] == [18, 2, 10]
    assert all("/val/" in path for path in files_of(task, "test"))
    assert not any(
        "/val/" in path for path in files_of(task, "train") | files_of(task, "validation")
    )


def test_agreement_and_divergence_are_both_measured(photographs: Path) -> None:
    guide, other = guide_of(), guide_of(seed=1)
    task = task_of(photographs, guide)
    assert (task.metric, task.direction) == ("agreement", "maximize")
    inputs = torch.cat([batch.inputs for batch in task.batches("validation", 2)])
    with torch.no_grad():
        outputs, taught = other.eval()(inputs), guide.eval()(inputs)
    p, q = taught.double().softmax(1), outputs.double().softmax(1)
    divergence = float((p * (p / q).log()).sum(1).mean())
    agreement = float((outputs.argmax(1) == taught.argmax(1)).double().mean())
    found = scores(other, task, "validation", batch_size=2)
    assert list(found) == ["agreement", "divergence"]
    assert found == pytest.approx({"agreement": agreement, "divergence": divergence}, rel=1e-4)
    assert scores(guide, task, "test") == pytest.approx({"agreement": 1, "divergence": 0}, abs=1e-6)
    turned = task_of(photographs, guide, metric="divergence")
    assert turned.direction == "minimize"
    assert score(other, turned, "validation") == pytest.approx(divergence, rel=1e-4)
    assert scores(other, turned, "validation")["agreement"] == pytest.approx(agreement)


def test_the_guide_runs_once_for_each_split_and_weights(photographs: Path) -> None:
    guide = guide_of()
    task = task_of(photographs, guide)
    counter: Any = guide.parts[0]
    counter.seen = 0
    first = torch.cat([batch.targets for batch in task.batches("train", 8)])
    assert counter.seen == 24
    for seed in range(3):
        for batch in task.batches("train", 8, seed=seed):
            assert torch.equal(batch.targets, first[batch.index])
    assert counter.seen == 24
    next(task.batches("train", 8, limit=8))  # a short look
    assert counter.seen == 32
    with torch.no_grad():
        guide.parts[1][1].weight.mul_(2)  # type: ignore[index]
    changed = torch.cat([batch.targets for batch in task.batches("train", 8)])
    assert counter.seen == 56
    assert not torch.allclose(changed, first)
    for copied in (copy.deepcopy(task), pickle.loads(pickle.dumps(task))):
        assert copied._kept == {}
        again = torch.cat([batch.targets for batch in copied.batches("train", 8)])
        assert torch.allclose(again, changed, atol=1e-5)


def test_varied_pictures_are_shown_to_the_guide_as_they_are(photographs: Path) -> None:
    guide = guide_of()
    task = task_of(photographs, guide, augment="flip-crop")
    plain = task_of(photographs, guide)
    both = (one.batches("train", 8, seed=0) for one in (task, plain))
    for batch, other in zip(*both, strict=True):
        assert batch.index is None
        assert not torch.equal(batch.inputs, other.inputs)
        with torch.no_grad():
            assert torch.allclose(batch.targets, guide.eval()(batch.inputs), atol=1e-6)


def test_results_say_that_the_guide_was_trained_on_other_data(photographs: Path) -> None:
    guide = guide_of()
    task = task_of(photographs, guide, name="photographs")
    assert "nearness to the guide on 'photographs', which its weights (torchvision:t" in task.note
    assert "accuracy on the data of the guide's own training was not measured" in task.note
    guide.weights_from = None
    assert "trained on" not in task.note


def test_preprocessing_is_the_guide_s_unless_given(photographs: Path) -> None:
    guide = guide_of()
    base: Any = task_of(photographs, guide).base
    assert base.source.reading.preprocessing == guide.preprocessing
    base = task_of(photographs, guide, size=16).base
    assert base.source.reading.preprocessing == guide.preprocessing.at_size(16)
    given = Preprocessing(8, 8)
    base = task_of(photographs, guide, preprocessing=given).base
    assert base.source.reading.preprocessing == given
    guide.preprocessing = None
    base = task_of(photographs, guide).base
    assert base.source.reading.preprocessing == Preprocessing(8, 9)
    grey = Guide([("head", nn.Flatten())], (1, 8, 8))
    with pytest.raises(DataError, match=r"takes inputs \(C,H,W\) = \(1, 8, 8\), and nobody said"):
        task_of(photographs, grey)


def test_what_cannot_be_learnt_is_refused(photographs: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a guide's outputs are learnt; give guide="):
        image_folder(photographs, labels=False)
    with pytest.raises(DataError, match="label_smoothing is of labels"):
        task_of(photographs, guide_of(), label_smoothing=0.1)
    with pytest.raises(DataError, match="metric is 'divergence' or 'agreement', not 'f1'"):
        task_of(photographs, guide_of(), metric="f1")
    with pytest.raises(DataError, match="validation_share is between 0 and 1, not 1"):
        task_of(photographs, guide_of(), validation_share=1)
    with pytest.raises(DataError, match="there is no folder .*nowhere"):
        task_of(tmp_path / "nowhere", guide_of()).size("train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty has 0 pictures \(\.jpg, "):
        task_of(tmp_path / "empty", guide_of()).size("train")


def test_data_sets_without_labels_are_prepared_as_the_guide_expects() -> None:
    random = np.random.RandomState(0)
    pictures = [
        Image.fromarray(random.randint(0, 256, (14 + n, 12, 3)).astype(np.uint8)) for n in range(20)
    ]
    guide = guide_of()
    task = from_datasets(pictures, pictures[:4], labels=False, guide=guide)
    assert declaration_mistakes(task) == behaviour_mistakes(task, taught=True) == []
    assert (task.metric, task.inlet.shape, task.outputs.shape) == ("agreement", (3, 8, 8), (5,))
    assert [task.size(split) for split in SPLITS] == [18, 2, 4]
    expected = {
        tuple(((guide.preprocessing.pixels(p).float() / 255 - 0.5) / 0.5).flatten().tolist())
        for p in pictures
    }
    found = torch.cat([b.inputs for s in ("train", "validation") for b in task.batches(s, 8)])  # type: ignore[arg-type]
    assert len(found) == 20
    for inputs in found:
        assert any(np.allclose(inputs.flatten(), one, atol=1e-5) for one in expected)
    # What comes with an image is not read.
    pairs = [(picture, "no label") for picture in pictures]
    same = from_datasets(pairs, pairs[:4], labels=False, guide=guide, metric="divergence")
    assert same.data_hash() == task.data_hash()
    assert same.metric == "divergence"


def test_data_sets_take_shapes_and_classes_from_the_guide() -> None:
    bytes_of = [(torch.full((3, 8, 8), 10 * n, dtype=torch.uint8), n % 2) for n in range(20)]
    task = from_datasets(bytes_of, bytes_of, guide=guide_of(classes=2))
    assert (task.metric, task.inlet.shape, task.outputs.shape) == ("accuracy", (3, 8, 8), (2,))
    values = {
        round(float(x), 4) for batch in task.batches("test", 20) for x in batch.inputs[:, 0, 0, 0]
    }
    assert values == {round((10 * n / 255 - 0.5) / 0.5, 4) for n in range(20)}
    with pytest.raises(DataError, match=r"inlet \(3, 4, 4\) is not the \(3, 8, 8\) of the prepro"):
        from_datasets(bytes_of, bytes_of, (3, 4, 4), guide=guide_of())
    with pytest.raises(DataError, match="from_datasets: without labels, a guide's outputs are"):
        from_datasets(bytes_of, bytes_of, labels=False)


def test_guides_that_do_not_fit_the_pictures_are_told_with_remedies(photographs: Path) -> None:
    for split in ("train", "test"):
        for number in range(8):
            folder = photographs / "labelled" / split / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(folder / f"{number}.png")
    guide = guide_of()
    labelled = image_folder(photographs / "labelled", guide=guide, workers=0, validation_share=0.5)
    (said,) = guide_mistakes(guide, labelled)
    assert "guide: its outputs are (D) = (5), but task 'labelled' needs (D) = (2); give" in said
    assert said.endswith("image_folder(…, labels=False, guide=guide)")
    other = image_folder(photographs, labels=False, guide=guide, size=16, workers=0)
    (said,) = guide_mistakes(guide, other)
    assert "takes inputs (C,H,W) = (3, 8, 8), but those of task" in said
    assert said.endswith("or vision_guide(…, size=) the task's size")
    assert list(guide_mistakes(guide, task_of(photographs, guide))) == []

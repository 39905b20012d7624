"""An interrupted training resumes bit-equal; unusable checkpoints are ignored with a reason."""

from __future__ import annotations

import hashlib
import math
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from nas_theseus import Recipe, cut
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.guide_training import guide_key, prepare_guide
from nas_theseus.conversion.training_checkpoint import Checkpoint, Checkpoints, TrainingProgress
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import digits

TASK = digits()
CPU = torch.device("cpu")
# The last epoch is not whole, so the steps that are left count as well.
RECIPE = Recipe(epochs=3.5, distill=0, batch_size=128)


def guide(width: int = 16) -> Guide:
    """A guide with everything that a checkpoint has to restore: norms, dropout, weights."""
    torch.manual_seed(3)
    network = nn.Sequential(
        nn.Flatten(),
        nn.Linear(64, width),
        nn.BatchNorm1d(width),
        nn.Dropout(0.3),
        nn.ReLU(),
        nn.Linear(width, 10),
    )
    return cut(network, ["2"], (1, 8, 8))


def interrupt_after(epochs: int) -> Callable[[EpochLoss], None]:
    """Ctrl-C while the epoch after so many whole ones is shown or trained."""

    def progress(epoch: EpochLoss) -> None:
        if epoch.epoch + 1 == epochs:
            raise KeyboardInterrupt

    return progress


def interrupted(folder: Path, epochs: int = 2) -> Path:
    """The checkpoint of a training that was interrupted."""
    with pytest.raises(KeyboardInterrupt):
        prepare_guide(guide(), TASK, RECIPE, folder, CPU, interrupt_after(epochs))
    (path,) = folder.glob("*.checkpoint")
    return path


def train(folder: Path, trained: Guide | None = None) -> tuple[Guide, list[int], list[str]]:
    """The trained guide, the epochs that ran, and the lines shown."""
    made = guide() if trained is None else trained
    epochs: list[int] = []
    lines: list[str] = []
    prepare_guide(
        made, TASK, RECIPE, folder, CPU, lambda e: epochs.append(e.epoch + 1), lines.append
    )
    return made, epochs, lines


def equal(first: Guide, second: Guide) -> bool:
    states = first.state_dict(), second.state_dict()
    return all(torch.equal(states[0][name], states[1][name]) for name in states[0] | states[1])


# The second recipe has a budget in steps, whose slices end in the middle of the data.
STEPS = Recipe(steps=38, distill=0, batch_size=128, micro_batch=64)


@pytest.mark.parametrize("recipe", [RECIPE, STEPS], ids=["epochs", "steps"])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_an_interrupted_training_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, after: int, recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "RECIPE", recipe)
    undisturbed, whole, lines = train(tmp_path / "undisturbed")
    assert whole == list(range(1, math.ceil(recipe.reports) + 1)) and lines == []
    interrupted(tmp_path / "other", after)
    torch.manual_seed(99)  # another process has another random state
    resumed, epochs, (line,) = train(tmp_path / "other")
    assert epochs == whole[after:]
    assert line.startswith(f"guide: training resumes after epoch {after}")
    assert equal(resumed, undisturbed)
    files = [path.suffix for path in (tmp_path / "other").iterdir()]
    assert sorted(files) in ([".lock", ".safetensors"], [".safetensors"])


def test_two_interruptions_are_resumed_as_one(tmp_path: Path) -> None:
    interrupted(tmp_path, 1)
    interrupted(tmp_path, 2)
    resumed, epochs, _ = train(tmp_path)
    assert epochs == [3, 4]
    assert equal(resumed, train(tmp_path / "undisturbed")[0])


def test_a_checkpoint_that_a_kill_left_beside_the_finished_guide_is_removed(tmp_path: Path) -> None:
    """Killed after the weights were written, and before the checkpoint was removed."""
    train(tmp_path)
    (weights,) = tmp_path.glob("*.safetensors")
    left = weights.with_name(f"{weights.stem}.1.checkpoint")
    left.write_bytes(b"left")
    other = tmp_path / f"{'0' * 16}.1.checkpoint"
    other.write_bytes(b"of another guide")
    train(tmp_path)
    assert not left.exists() and other.exists()


def test_the_random_state_goes_on(tmp_path: Path) -> None:
    network = nn.Linear(2, 2)
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    checkpoint = Checkpoint(tmp_path / "a.checkpoint", "a", pytest.fail)
    checkpoint.save(TrainingProgress(2, 4), network, optimizer, schedule)
    drawn = torch.rand(3)
    lines: list[str] = []
    again = Checkpoint(tmp_path / "a.checkpoint", "a", lines.append)
    assert again.resume(network, optimizer, schedule) == TrainingProgress(2, 4)
    assert torch.equal(torch.rand(3), drawn)


def cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def from_another_guide(path: Path) -> None:
    other = path.parent / "other"
    with pytest.raises(KeyboardInterrupt):
        prepare_guide(guide(width=8), TASK, RECIPE, other, CPU, interrupt_after(2))
    (foreign,) = other.glob("*.checkpoint")
    path.write_bytes(foreign.read_bytes())


def with_another_programs_file(path: Path) -> None:
    data = b"PK not a checkpoint"
    path.write_bytes(hashlib.sha256(data).digest() + data)


def of_another_shape(path: Path) -> None:
    network = nn.Sequential(nn.Linear(64, 16), nn.Linear(5, 5))
    optimizer = torch.optim.AdamW(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    Checkpoint(path, path.stem, pytest.fail).save(
        TrainingProgress(2, 1), network, optimizer, schedule
    )


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (cut_short, "is damaged"),
        (flip_a_bit, "is damaged"),
        (empty, "is damaged"),
        (from_another_guide, "is of another training"),
        (with_another_programs_file, "has other contents than a checkpoint"),
        (of_another_shape, "does not fit this network"),
    ],
)
def test_an_unusable_checkpoint_is_ignored_with_its_reason(
    tmp_path: Path, spoil: Callable[[Path], None], reason: str
) -> None:
    path = interrupted(tmp_path)
    spoil(path)
    trained, epochs, lines = train(tmp_path)
    assert epochs == [1, 2, 3, 4]
    (line,) = lines
    assert line.startswith(f"guide: training begins again at epoch 1: its checkpoint {path} ")
    assert reason in line
    assert equal(trained, train(tmp_path / "undisturbed")[0])
    assert not path.exists()


def test_a_checkpoint_that_cannot_be_written_costs_no_training(tmp_path: Path) -> None:
    # A folder where the file would be: it can neither be read nor replaced.
    key = guide_key(guide(), TASK, RECIPE)
    place = tmp_path / f"{key}.1.checkpoint"
    place.mkdir()
    (place / "file").touch()
    made = guide()
    lines: list[str] = []
    network_lines = Checkpoints(tmp_path, key, lines.append).next()
    optimizer = torch.optim.AdamW(made.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=5)
    for epoch in (1, 2):
        network_lines.save(TrainingProgress(epoch, 1), made, optimizer, schedule)
    (line,) = lines  # once, not after every epoch
    assert "the training goes on without checkpoints" in line and "begins again" in line


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    path = interrupted(tmp_path)
    marker = tmp_path / "ran"

    class Runs:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (marker,))

    data = pickle.dumps(Runs())
    path.write_bytes(hashlib.sha256(data).digest() + data)
    _, epochs, (line,) = train(tmp_path)
    assert epochs == [1, 2, 3, 4] and "has other contents than a checkpoint" in line
    assert not marker.exists()

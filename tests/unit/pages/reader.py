"""What a reader of the guides has: a network, data and modules, small, under the guides' names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from nas_theseus import Guide
from nas_theseus.blocks import downsampling
from nas_theseus.tasks import digits, from_datasets
from nas_theseus.tasks.preprocessing import Preprocessing
from tests.unit.pages.blocks import ROOT, blocks_of

SPACE = """
from torch import nn

from nas_theseus import Recipe, SearchSpace, cut
from nas_theseus.blocks import Depthwise, Identity, Keep, Linear
from nas_theseus.tasks import digits


def layer(inlet, outlet, stride=1):
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10))
    network = nn.Sequential(layer(1, 8), layer(8, 8), layer(8, 16, 2), layer(16, 16), head)
    return SearchSpace(
        guide=cut(network, at=["0", "1", "2", "3"], inlet=(1, 8, 8)),
        task=digits(),
        blocks=[Keep(), Depthwise(), Linear(), Identity()],
        keep=["head"],
        guide_training=Recipe(epochs=8, distill=0),
        recipe=Recipe(epochs=2, align_steps=10, align_examples=256),
    )
"""


def layer(inlet: int, outlet: int, stride: int = 1) -> nn.Sequential:
    """A convolution with its norm and activation."""
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, stride, 1), nn.BatchNorm2d(outlet), nn.ReLU())


class MyNetwork(nn.Module):
    """Pictures of 224 × 224 to two classes; `stem` and `layer1` can be cut."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer(3, 8, stride=4)
        self.layer1 = layer(8, 8)
        self.layer2 = layer(8, 8, stride=4)
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.stem(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class MyBlock(nn.Module):
    """A block with a hidden width."""

    def __init__(self, inlet: Any, outlet: Any, hidden: int = 8) -> None:
        super().__init__()
        self.first = nn.Conv2d(inlet.width, hidden, 1, downsampling(inlet, outlet))
        self.last = nn.Conv2d(hidden, outlet.width, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.first(x).relu())
        return out


class MyMetric:
    """Right answers, counted."""

    def __init__(self) -> None:
        self.right = 0

    def update(self, outputs: Tensor, targets: Tensor) -> None:
        self.right += int((outputs.argmax(1) == targets).sum())

    def compute(self) -> float:
        return float(self.right)

    def reset(self) -> None:
        self.right = 0


class Npz:
    """A format of one's own; the guide only registers it."""

    suffix, needs = ".npz", ()

    def write(self, member: Any, inputs: Tensor, path: Path) -> None: ...

    def read(self, member: Any, path: Path) -> None: ...


class Residual(nn.Module):
    """A residual block that torch.fx can trace."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.bn2(self.conv2(self.bn1(self.conv1(x)).relu()))
        return (x + inner).relu()


class Grown(nn.Module):
    """What docs/guides/transforms.md makes wider and deeper."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = layer(1, 48)
        self.block1, self.block2, self.block3 = Residual(48), Residual(48), Residual(48)
        self.fc = nn.Linear(48, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.block3(self.block2(self.block1(self.stem(x))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


def small_guide(width: int) -> Guide:
    """A guide for digits, cut behind its blocks."""
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2 * width, 10))
    parts = [layer(1, width), layer(width, width), layer(width, 2 * width, 2)]
    parts += [layer(2 * width, 2 * width)]
    named = [(f"block{number}", part) for number, part in enumerate(parts)]
    return Guide([*named, ("head", head)], (1, 8, 8))


def photograph(seed: int) -> Image.Image:
    """A picture of noise."""
    made = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 255, (40, 40, 3), generator=made, dtype=torch.uint8)
    return Image.fromarray(pixels.numpy())


def names() -> dict[str, dict[str, Any]]:
    """What each page takes for granted, by page; "" is for all pages."""
    model = Grown()
    pictures = MyNetwork()
    parts = [("stem", pictures.stem), ("layer1", pictures.layer1), ("layer2", pictures.layer2)]
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), pictures.fc)
    guide = Guide([*parts, ("head", head)], (3, 224, 224))
    guide.preprocessing = Preprocessing(224, 256)
    labelled = [(photograph(seed), seed % 2) for seed in range(20)]
    chain = {
        "embed": layer(1, 8),
        "block1": layer(8, 8),
        "head": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10)),
    }
    return {
        "": {"my_network": MyNetwork, "MyBlock": MyBlock},
        "docs/guides/bring-your-own.md": {
            **chain,
            "task": digits(),
            "MyMetric": MyMetric,
            "MySampler": optuna.samplers.RandomSampler,
            "my_meter": lambda network, inputs: float(network(inputs).numel()),
            "Npz": Npz,
        },
        "docs/guides/mlflow.md": {"inputs": torch.zeros(2, 1, 8, 8).numpy()},
        "docs/guides/stitching.md": {
            "small": small_guide(4),
            "large": small_guide(8),
            "task": digits(),
        },
        "docs/guides/transforms.md": {
            "model": model,
            "teacher_optimizer": torch.optim.AdamW(model.parameters()),
            "images": torch.randn(8, 1, 28, 28),
        },
        "docs/guides/vision.md": {
            "guide": guide,
            "task": from_datasets(labelled, labelled, guide=guide),
            "inner": ["layer1"],
            "train": labelled,
            "test": labelled,
        },
    }


def furnish(folder: Path) -> None:
    """Write the reader's files."""
    table = ROOT / "docs" / "guides" / "tabular.md"
    (folder / "table.py").write_text(next(blocks_of(table)).text, encoding="utf-8")
    (folder / "my_space.py").write_text(SPACE, encoding="utf-8")
    torch.manual_seed(0)
    save_file(MyNetwork().state_dict(), folder / "model.safetensors")
    for number in range(24):
        for name in ("imagenet/train", "imagenet/val"):
            place = folder / name / ("cat", "dog")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            photograph(number).save(place / f"{number}.png")
        (folder / "photographs").mkdir(exist_ok=True)
        photograph(number).save(folder / "photographs" / f"{number}.png")
    for name in ("tragedies/hamlet", "tragedies/king-lear", "romances/tempest", "comedies/errors"):
        file = folder / "plays" / f"{name}.md"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("to be or not to be\n" * 400, encoding="utf-8")
    words = {word: number for number, word in enumerate(["[UNK]", "to", "be", "or", "not"])}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    (folder / "smollm2").mkdir()
    tokenizer.save(str(folder / "smollm2" / "tokenizer.json"))
    question = {"context": "to be", "choices": [" or", " not"], "answer": 0}
    (folder / "questions.jsonl").write_text(json.dumps(question) + "\n", encoding="utf-8")

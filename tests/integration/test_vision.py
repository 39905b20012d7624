"""Pretrained vision networks: a whole search without labels, from pictures to an ONNX file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nas_theseus
from nas_theseus import Recipe, SearchSpace
from nas_theseus.blocks import Depthwise, Keep, TokenMLP
from nas_theseus.candidate.workshop import Converted, Workshop
from nas_theseus.guide.vision import vision_guide
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_outcomes
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.tasks import from_datasets
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Evaluation

SPACE = '''
"""A small ResNet of torchvision and pictures without labels."""

from pathlib import Path

import torch
from torchvision.models.resnet import BasicBlock, ResNet

from nas_theseus import Recipe, SearchSpace
from nas_theseus.blocks import Depthwise, Keep
from nas_theseus.guide.vision import vision_guide
from nas_theseus.tasks import Preprocessing, image_folder

HERE = Path(__file__).parent


def space():
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7)
    guide = vision_guide(
        network, weights=HERE / "weights.pt", size=32, preprocessing=Preprocessing(64, 72)
    )
    return SearchSpace(
        guide=guide,
        task=image_folder(HERE / "pictures", labels=False, guide=guide, workers=0),
        blocks=[Keep(), Depthwise()],
        keep=["maxpool", "head"],
        recipe=Recipe(
            align_examples=16, align_steps=3, align_batch_size=8, epochs=1, batch_size=16, distill=1
        ),
    )
'''


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A space file, weights that were trained elsewhere, and forty pictures."""
    from torchvision.models.resnet import BasicBlock, ResNet

    torch.manual_seed(0)
    torch.save(
        ResNet(BasicBlock, [1, 1, 1, 1], num_classes=7).state_dict(), tmp_path / "weights.pt"
    )
    (tmp_path / "space.py").write_text(SPACE)
    random = np.random.RandomState(0)
    (tmp_path / "pictures" / "holiday").mkdir(parents=True)
    for number in range(40):
        pixels = random.randint(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / "holiday" / f"{number}.png")
    return tmp_path


def test_a_search_needs_no_labels(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    result = nas_theseus.search(
        folder / "space.py",
        trials=3,
        storage=folder / "theseus",
        executor="inline",
        trackers=("json-lines",),
        sampler="random",
    )
    assert result.failures == ()
    search = SearchFolder(folder / "theseus", "space")
    evaluations = [o for o in read_outcomes(search) if isinstance(o, Evaluation)]
    assert evaluations
    for evaluation in evaluations:
        assert {"val_agreement", "val_divergence"} <= set(evaluation.metrics)
        (note,) = [one for one in evaluation.notes if "no labels" in one]
        assert "on 'pictures', which its weights (weights.pt) were not trained on" in note
    assert result.guide["val_agreement"] == result.guide["test_agreement"] == 1
    assert result.guide["test_divergence"] == pytest.approx(0, abs=1e-6)
    for member in result.members:
        tested = json.loads(
            (search.front / member.evaluation.architecture.id / "test.json").read_text()
        )
        tested.pop("checksum")
        assert set(tested) == {"test_agreement", "test_divergence"} == set(member.test)
    # Found networks bring their weights: those of the guide are not needed any more.
    (folder / "weights.pt").unlink()
    network = result.load(result.members[0].evaluation.architecture.id)
    assert network(torch.zeros(2, 3, 32, 32)).shape == (2, 7)


FAMILIES = [
    "torchvision:resnet18",
    "torchvision:regnet_y_400mf",
    "torchvision:mobilenet_v3_small",
    "torchvision:densenet121",
    "torchvision:swin_t",
    "timm:mobilenetv2_050",
    "timm:efficientnet_lite0",
    "timm:convnext_atto",
    "timm:vit_tiny_patch16_224",
    "timm:deit_tiny_patch16_224",
]


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_network_of_each_family_is_converted(name: str) -> None:
    pytest.importorskip("timm")
    torch.manual_seed(0)
    guide = vision_guide(name, weights=None, size=64)
    draw = torch.Generator().manual_seed(0)
    pictures = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8, generator=draw)
    middle = len(guide) // 2
    new = TokenMLP() if len(guide.boundaries[middle].shape) == 2 else Depthwise()
    space = SearchSpace(
        guide=guide,
        task=from_datasets(list(pictures), list(pictures[:8]), labels=False, guide=guide),
        blocks=[Keep(), new.on(guide.names[middle])],
        recipe=Recipe(
            align_examples=16, align_steps=4, align_batch_size=8, epochs=1, batch_size=18, distill=1
        ),
    )
    assert mistakes_in(space) == []
    choices = [BlockChoice(Span(i, i + 1), "keep") for i in range(len(guide))]
    variant = next(space.families[new.name].variants())
    choices[middle] = BlockChoice(Span(middle, middle + 1), new.name, variant)
    *_, last = Workshop(space, torch.device("cpu")).convert(Architecture(tuple(choices)), 0)
    assert isinstance(last, Converted)
    assert 0 <= last.evaluation.metrics["val_agreement"] <= 1
    assert last.evaluation.metrics["val_divergence"] > 0

"""The front of a search becomes the anchors of one network; results were put there by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_theseus.api.switch import NETWORKS_FILE, WEIGHTS_FILE, front_anchors, load_switching
from nas_theseus.conversion.guide_training import prepare_guide
from nas_theseus.conversion.target import assemble
from nas_theseus.costs.table import CostTable
from nas_theseus.errors import StorageError
from nas_theseus.guide.weights import plain_state
from nas_theseus.searches.beginning import begin
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.space.load import load_space
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.stitching.stitchable import StitchableNet
from nas_theseus.storage.whole_files import write_json, write_tensors
from nas_theseus.values.architecture import Architecture, BlockChoice, Span
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.settings import SearchSettings

TEXT = """
from torch import nn
from nas_theseus import SearchSpace, cut
from nas_theseus.blocks import Keep, Linear, block
from nas_theseus.errors import ShapeError
from nas_theseus.tasks import digits


class Pooled(nn.Sequential):
    def __init__(self, inlet, outlet):
        if outlet.kind != "vector":
            raise ShapeError("gives a vector")
        last = nn.Linear(inlet.width, outlet.width)
        super().__init__(nn.AdaptiveAvgPool2d(1), nn.Flatten(), last)


def conv(inlet, outlet):
    return nn.Sequential(nn.Conv2d(inlet, outlet, 3, 1, 1), nn.BatchNorm2d(outlet), nn.ReLU())


def space():
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10))
    net = nn.Sequential(conv(1, 4), conv(4, 4), conv(4, 4), head)
    return SearchSpace(
        guide=cut(net, ["0", "1", "2"], (1, 8, 8)), task=digits(), max_span=4,
        blocks=[Keep(), Linear(), block(Pooled)],
    )
"""
GUIDE = [("keep", 0, 1), ("keep", 1, 2), ("keep", 2, 3), ("keep", 3, 4)]
LATE = [("keep", 0, 1), ("keep", 1, 2), ("linear", 2, 3), ("keep", 3, 4)]
SPANNED = [("keep", 0, 1), ("linear", 1, 3), ("keep", 3, 4)]
WHOLE = [("pooled", 0, 4)]
DOMINATED = [("linear", 0, 1), ("keep", 1, 2), ("linear", 2, 3), ("keep", 3, 4)]


def architecture(blocks: list[tuple[str, int, int]]) -> Architecture:
    return Architecture(tuple(BlockChoice(Span(a, b), name) for name, a, b in blocks))


CPU = torch.device("cpu")


class Desk:
    """A search that has evaluated some architectures."""

    def __init__(self, root: Path) -> None:
        self.storage = SearchFolder(root, "small")
        self.storage.create()
        (root / "small.py").write_text(TEXT)
        self.space: SearchSpace = load_space(root / "small.py")
        sources = Sources(str(root / "small.py"), TEXT)
        begin(self.storage, SearchSettings(name="small"), self.space, sources)
        prepare_guide(self.space.guide, self.space.task, None, self.storage.guides, CPU)

    def evaluate(self, blocks: list[tuple[str, int, int]], accuracy: float) -> Evaluation:
        found = architecture(blocks)
        cost = CostTable(self.space).of(found)
        evaluation = Evaluation(
            found, self.space.recipe.id, 0, {"val_accuracy": accuracy}, cost, 0, 0.0
        )
        target = assemble(self.space, found, 7)
        write_tensors(self.storage.weights_of(evaluation.name), plain_state(target))
        self.storage.write_outcome(evaluation)
        return evaluation


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_guide_and_front_are_anchors(desk: Desk) -> None:
    desk.evaluate(GUIDE, 0.9)
    late, spanned = desk.evaluate(LATE, 0.8), desk.evaluate(SPANNED, 0.7)
    desk.evaluate(WHOLE, 0.2)  # on the front, but has no boundary inside
    desk.evaluate(DOMINATED, 0.1)
    anchors = front_anchors(desk.storage, trust_code=True)
    assert [a.name for a in anchors] == [
        spanned.architecture.id, late.architecture.id, "guide",
    ]  # fmt: skip
    inputs = desk.space.task.sample(5)
    target = assemble(desk.space, late.architecture, 7).eval()
    with torch.no_grad():
        assert torch.equal(anchors[1].network(inputs), target(inputs))
    net = StitchableNet(anchors, size=1)
    joined = {(c.front, c.back) for c in net.configs() if c.stitch is not None}
    ids = spanned.architecture.id, late.architecture.id
    assert joined == {ids, (ids[1], "guide")}
    for index, config in enumerate(net.configs()):
        net.select(index)
        with torch.no_grad():
            torch.testing.assert_close(net(inputs), net.extract(index)(inputs), atol=1e-6, rtol=0)
        assert config.cost.macs <= net.configs()[-1].cost.macs


def test_a_front_with_nothing_to_stitch(desk: Desk) -> None:
    with pytest.raises(StorageError, match="has nothing to stitch: 0 members besides the guide"):
        front_anchors(desk.storage, trust_code=True)
    desk.evaluate(WHOLE, 0.2)
    with pytest.raises(StorageError, match="1 members besides the guide, none with a boundary"):
        front_anchors(desk.storage, trust_code=True)
    with pytest.raises(StorageError, match="add --trust-code"):
        front_anchors(desk.storage)


def test_a_kept_network_is_rebuilt_from_the_results_of_its_anchors(desk: Desk) -> None:
    late = desk.evaluate(LATE, 0.8)
    with pytest.raises(StorageError, match="make it with 'nas-theseus switch small'"):
        load_switching(desk.storage, trust_code=True)
    net = StitchableNet(front_anchors(desk.storage, trust_code=True), size=1)
    net.fit(100)
    folder = desk.storage.folder / "switching"
    net.save(folder / WEIGHTS_FILE)
    write_json(folder / NETWORKS_FILE, {"anchors": net.names, "networks": []})
    # Results that came since do not change what it is made of.
    desk.evaluate(SPANNED, 0.85)
    again = load_switching(desk.storage, trust_code=True)
    assert again.names == net.names == (late.architecture.id, "guide")
    inputs = desk.space.task.sample(5)
    for index in range(len(net.configs())):
        net.select(index)
        again.select(index)
        with torch.no_grad():
            assert torch.equal(again(inputs), net(inputs))
    for kept in desk.storage.evaluations.glob(f"{late.architecture.id}*"):
        kept.unlink()
    with pytest.raises(StorageError, match=f"results of {late.architecture.id} are gone"):
        load_switching(desk.storage, trust_code=True)

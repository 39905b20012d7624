"""A guide of stitchable nets trains them once, and a search takes their networks out whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from nas_theseus import Recipe, SearchSpace
from nas_theseus.blocks import Keep
from nas_theseus.candidate.workshop import Workshop, result_of
from nas_theseus.conversion.finetune import EpochLoss
from nas_theseus.conversion.guide_training import guide_key, prepare_guide
from nas_theseus.costs.table import CostTable
from nas_theseus.space.mistakes import mistakes_in
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.stitching.stitchable_guide import StitchableGuide
from nas_theseus.tasks import ImageTask
from nas_theseus.tasks.score import score
from nas_theseus.values.architecture import Architecture, BlockChoice, Span

TRAINING = Recipe(epochs=2, batch_size=27, learning_rate=5e-3, align_examples=100)


def guide_of(anchors: list[Anchor]) -> StitchableGuide:
    torch.manual_seed(0)  # of the stitches, as `load_space` does
    return StitchableGuide(
        anchors, stitch_training=TRAINING, sizes=[1], directions=["fast-to-slow"], fit_examples=100
    )


@pytest.fixture
def space(anchors: list[Anchor], task: ImageTask) -> SearchSpace:
    guide = guide_of(anchors)
    return SearchSpace(
        guide=guide, task=task, blocks=[Keep(), guide.stitched([0, 0.5, 1])], max_span=len(guide),
        guide_training=TRAINING,
        recipe=Recipe(schedule="naive", epochs=0, align_examples=100, align_batch_size=256),
    )  # fmt: skip


def stitched(space: SearchSpace, share: float) -> Architecture:
    (choice,) = (c for c in space.choices(Span(0, len(space.guide))) if c.kwargs["share"] == share)
    return Architecture((choice,))


def test_the_space_holds_the_largest_anchor_and_the_stitched_networks(space: SearchSpace) -> None:
    assert mistakes_in(space) == []
    assert space.count() == 1 + 3
    assert all(
        isinstance(c, BlockChoice) and c.span == Span(0, len(space.guide))
        for span in space.spans()
        for c in space.choices(span)
        if c.block == "stitched"
    )
    guide = space.guide
    assert isinstance(guide, StitchableGuide)
    table = CostTable(space)
    costs = [table.of(stitched(space, share)) for share in (0, 0.5, 1)]
    configs = guide.net(1, "fast-to-slow").configs()
    assert costs == [configs[i].cost for i in (0, round((len(configs) - 1) / 2), -1)]


def test_a_candidate_is_the_trained_network_of_its_net(
    space: SearchSpace, tmp_path: object
) -> None:
    guide = space.guide
    assert isinstance(guide, StitchableGuide)
    prepare_guide(guide, space.task, TRAINING, tmp_path, torch.device("cpu"))  # type: ignore[arg-type]
    net = guide.net(1, "fast-to-slow")
    events = Workshop(space, torch.device("cpu")).convert(stitched(space, 0.5), 0)
    found = result_of(events)
    index = round((len(net.configs()) - 1) / 2)
    inputs = space.task.sample(7)
    with torch.no_grad():
        # The net's own statistics are of the same examples as the candidate's recalibration.
        torch.testing.assert_close(
            found.network(inputs), net.extract(index)(inputs), atol=1e-4, rtol=1e-4
        )
    assert found.evaluation.metrics["val_accuracy"] == score(
        net.extract(index), space.task, "validation"
    )


def test_training_moves_every_anchor_and_net_and_is_kept_under_its_recipes(
    anchors: list[Anchor], task: ImageTask, tmp_path: object
) -> None:
    guide = guide_of(anchors)
    key = guide_key(guide, task, TRAINING)
    assert key == guide_key(guide_of(anchors), task, TRAINING)
    other = StitchableGuide(
        anchors, stitch_training=TRAINING.model_copy(update={"epochs": 3.0}), sizes=[1],
        directions=["fast-to-slow"], fit_examples=100,
    )  # fmt: skip
    assert key != guide_key(other, task, TRAINING)
    before = {name: tensor.clone() for name, tensor in guide.named_parameters()}
    prepare_guide(guide, task, TRAINING, tmp_path, torch.device("cpu"))  # type: ignore[arg-type]
    assert [n for n, tensor in guide.named_parameters() if torch.equal(tensor, before[n])] == []
    again = guide_of(anchors)
    prepare_guide(again, task, TRAINING, tmp_path, torch.device("cpu"))  # type: ignore[arg-type]
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, guide.state_dict()[name]), name


@pytest.mark.parametrize("after", [1, 3, 5])
def test_an_interrupted_training_resumes_in_the_anchor_or_net_where_it_was(
    anchors: list[Anchor], task: ImageTask, tmp_path: Path, after: int
) -> None:
    cpu = torch.device("cpu")
    undisturbed = guide_of(anchors)
    prepare_guide(undisturbed, task, TRAINING, tmp_path / "undisturbed", cpu)
    shown: list[EpochLoss] = []

    def interrupt(epoch: EpochLoss) -> None:
        shown.append(epoch)
        if len(shown) == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare_guide(guide_of(anchors), task, TRAINING, tmp_path, cpu, interrupt)
    resumed = guide_of(anchors)
    prepare_guide(resumed, task, TRAINING, tmp_path, cpu, shown.append, lambda _: None)
    # Two anchors or more and a net, two epochs each: none of them runs twice.
    assert len(shown) == 2 * (len(anchors) + 1)
    for name, tensor in resumed.state_dict().items():
        assert torch.equal(tensor, undisturbed.state_dict()[name]), name
    assert not list(tmp_path.glob("*.checkpoint"))

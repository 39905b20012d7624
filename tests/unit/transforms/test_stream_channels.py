"""Streams of guides, and the order in which their channels can be left out."""

from __future__ import annotations

import itertools

import pytest
import torch
import torchvision.models as vision
from torch import Tensor, nn

from nas_theseus import cut
from nas_theseus.blocks.pruning import Reader, gram, prune_channels, removal_order
from nas_theseus.guide.chain import Guide
from nas_theseus.guide.networks import ResNet, vision_transformer
from nas_theseus.transforms.stream_channels import stream_order, streams


def test_streams_begin_where_parts_do_not_add_to_their_input() -> None:
    network = ResNet((2, 2, 1))
    guide = cut(network, network.cuts, inlet=(1, 32, 32))
    # Image; stem and two blocks; the stage's entry and its second block; the last entry; logits.
    assert streams(guide) == (range(1), range(1, 4), range(4, 6), range(6, 7), range(7, 8))


def test_pooling_carries_channels_and_a_concatenation_does_not() -> None:
    resnet = vision.resnet18()
    guide = cut(resnet, ["relu", "maxpool", "layer1", "layer2.0"], inlet=(3, 32, 32))
    assert streams(guide)[:3] == (range(1), range(1, 4), range(4, 5))
    network, cuts = vision_transformer(depth=1)
    assert all(len(each) == 1 for each in streams(cut(network, cuts, inlet=(1, 32, 32))))


def linear_guide(readers: list[Tensor]) -> tuple[Guide, list[Tensor]]:
    """Boundaries of one stream, each read by a linear map beside an identity."""

    class Add(nn.Module):
        def __init__(self, weight: Tensor) -> None:
            super().__init__()
            self.map = nn.Linear(6, len(weight), bias=False)
            self.back = nn.Linear(len(weight), 6, bias=False)
            self.map.weight.data.copy_(weight)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = x + self.back(self.map(x))
            return out

    torch.manual_seed(1)
    last = nn.Linear(6, 2, bias=False)
    guide = Guide([*((f"add{i}", Add(w)) for i, w in enumerate(readers)), ("last", last)], (6,))
    inputs = torch.randn(600, 6) @ torch.randn(6, 6)
    with torch.no_grad():
        found = guide.features(inputs, range(len(guide)))
    return guide, [found[i] for i in range(len(guide))]


def test_the_first_channel_to_go_is_the_one_all_readers_miss_least() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(3, 6, generator=generator) for _ in range(2)]
    guide, at = linear_guide(weights)
    (stream, _) = streams(guide)
    order = stream_order(guide, stream, at.__getitem__)
    maps = [*weights, guide.parts[-1].weight.detach()]

    def lost(gone: int) -> float:
        """By torch's own solver: every reader's relative error with its weights refitted."""
        kept = [c for c in range(6) if c != gone]
        total = 0.0
        for weight, inputs in zip(maps, at, strict=True):
            goals = inputs @ weight.T
            best = torch.linalg.lstsq(inputs[:, kept], goals).solution
            off = (inputs[:, kept] @ best - goals).square().sum()
            total += float(off / goals.square().sum())
        return total

    assert int(order[0]) == min(range(6), key=lost)
    assert sorted(order.tolist()) == list(range(6))


@pytest.mark.parametrize("keep", [1, 5, 17])
def test_sets_of_channels_are_those_of_pruning_and_nested(keep: int) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(500, 40, generator=generator) @ torch.randn(40, 40, generator=generator)
    weight = torch.randn(9, 40, generator=generator)
    readers = [Reader(weight, gram(inputs), torch.arange(40))]
    order = removal_order(readers, 40)
    kept, _ = prune_channels(readers, 40, keep)
    assert order[-keep:].sort().values.tolist() == kept.tolist()


def test_a_part_that_cannot_be_followed_counts_its_features() -> None:
    guide = Guide([("relu", nn.ReLU()), ("soft", nn.Softmax(1))], (4,))
    inputs = torch.rand(300, 4) * torch.tensor([1.0, 1e-3, 1.0, 1.0])
    inputs[:, 3] = inputs[:, 0]  # one of the two is predicted by the other
    with torch.no_grad():
        found = guide.features(inputs, range(2))
    stream = streams(guide)[0]
    assert stream == range(2)
    order = stream_order(guide, stream, found.__getitem__).tolist()
    assert 1 in order[:2]
    assert {*order[:2]} & {0, 3}
    assert list(itertools.chain(order)) != list(range(4))

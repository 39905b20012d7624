"""A stitchable net is each of its networks when selected, and gives each of them away whole."""

from __future__ import annotations

import copy
import itertools
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from nas_theseus.conversion.finetune import EpochLoss, train
from nas_theseus.costs import cost_of
from nas_theseus.errors import ConversionError, GuideError, ShapeError
from nas_theseus.guide.chain import Guide
from nas_theseus.stitching.anchors import Anchor
from nas_theseus.stitching.stitchable import StitchableNet
from nas_theseus.stitching.training import StitchesTrained, calibrate, train_stitches
from nas_theseus.tasks import ImageTask, from_datasets
from nas_theseus.values.recipe import Recipe
from tests.unit.stitching.conftest import _blobs, resnet, vit

INPUTS = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def outputs(net: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        out: torch.Tensor = net(INPUTS)
    return out


def test_anchors_are_themselves_and_copies(anchors: list[Anchor]) -> None:
    net = StitchableNet(anchors)
    assert net.names == ("small", "large")
    found = {str(config): index for index, config in enumerate(net.configs())}
    for anchor in anchors:
        net.select(found[anchor.name])
        assert torch.equal(outputs(net), outputs(anchor.network.eval()))
    before = outputs(anchors[0].network)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    assert torch.equal(outputs(anchors[0].network), before)


def test_every_selected_network_is_the_one_extracted(anchors: list[Anchor]) -> None:
    net = StitchableNet(anchors)
    net.fit(100)
    calibrate(net, anchors[0].task, 100)
    seen = []
    for index, config in enumerate(net.configs()):
        plain = net.extract(index)
        net.select(index)
        torch.testing.assert_close(outputs(plain), outputs(net), atol=1e-6, rtol=0)
        assert cost_of(plain, net.task.inlet) == config.cost
        assert len(plain) == config.leave + (
            0 if config.stitch is None else 1 + len(net.anchor(config.back)) - config.enter
        )
        seen.append(outputs(net))
    assert all(not torch.equal(a, b) for a, b in itertools.pairwise(seen))
    macs = [config.cost.macs for config in net.configs()]
    assert macs == sorted(macs)


def test_stitches_run_from_fast_to_slow_or_back(anchors: list[Anchor]) -> None:
    up, down = (
        StitchableNet(anchors, size=1, direction=direction)
        for direction in ("fast-to-slow", "slow-to-fast")
    )
    assert {c.front for c in up.configs() if c.stitch is not None} == {"small"}
    assert {c.front for c in down.configs() if c.stitch is not None} == {"large"}
    assert len(up.configs()) == len(down.configs())
    # Boundaries: stem and block1 | block2, and stem, block1, block2 | block3, block4.
    pairs = {(c.leave, c.enter) for c in up.configs() if c.stitch is not None}
    assert pairs == {(1, 1), (1, 2), (2, 3), (3, 4), (3, 5)}


def test_only_neighbours_are_stitched_unless_all_are_asked_for(anchors: list[Anchor]) -> None:
    middle = Anchor("middle", resnet(6, 2, 1, 1), anchors[0].task)
    joined = {
        nearest: {
            (c.front, c.back)
            for c in StitchableNet([*anchors, middle], nearest=nearest).configs()
            if c.stitch is not None
        }
        for nearest in (True, False)
    }
    assert joined[True] == {("small", "middle"), ("middle", "large")}
    assert joined[False] == joined[True] | {("small", "large")}


def test_least_squares_are_those_of_numpy_over_the_window(anchors: list[Anchor]) -> None:
    net = StitchableNet(anchors)
    sample = anchors[0].task.sample(60)
    residuals = net.fit(60)
    large, small = (anchor.network.eval() for anchor in anchors)
    for number, (front, _, pairs) in enumerate(net.windows):
        assert front == "small"
        with torch.no_grad():
            a, b = (
                torch.cat([network.features(sample, {at})[at] for at in side])
                .permute(0, 2, 3, 1).flatten(0, 2).double().numpy()
                for network, side in zip((small, large), zip(*pairs, strict=True), strict=True)
            )  # fmt: skip
        ones = np.hstack([a, np.ones((len(a), 1))])
        known = np.linalg.lstsq(ones, b, rcond=None)[0]
        conv = net.stitches[number].conv
        given = a @ conv.weight.detach().flatten(1).double().numpy().T
        given += conv.bias.detach().double().numpy()
        np.testing.assert_allclose(given, ones @ known, atol=2e-3)  # weights differ by the ridge
        left = ((b - ones @ known) ** 2).sum() / ((b - b.mean(0)) ** 2).sum()
        assert residuals[number] == pytest.approx(left, abs=1e-4)


def test_networks_keep_their_own_statistics(anchors: list[Anchor], tmp_path: Path) -> None:
    net = StitchableNet(anchors)
    net.fit(100)
    first, last = 1, len(net.configs()) - 1
    net.select(last)
    before = outputs(net)
    net.select(first)
    plain = outputs(net)
    macs = calibrate(net, anchors[0].task, 100)
    assert macs == 100 * sum(config.cost.macs for config in net.configs())
    assert net.selected == first
    calibrated = outputs(net)
    assert not torch.equal(calibrated, plain)
    net.select(last)
    assert not torch.equal(outputs(net), before)
    net.select(first)
    assert torch.equal(outputs(net), calibrated)


def test_a_saved_net_comes_back(anchors: list[Anchor], tmp_path: Path) -> None:
    net = StitchableNet(anchors, size=1, direction="slow-to-fast")
    calibrate(net, anchors[0].task, 100)
    net.select(2)
    net.save(tmp_path / "net.safetensors")
    others = [
        Anchor("small", resnet(4, 7, 1, 1), anchors[0].task),
        Anchor("large", resnet(8, 8, 2, 2), anchors[0].task),
    ]
    with pytest.raises(GuideError, match="got large, middle"):
        StitchableNet.load(
            tmp_path / "net.safetensors", [others[1], replace(others[0], name="middle")]
        )
    again = StitchableNet.load(tmp_path / "net.safetensors", others)
    assert again.settings == net.settings
    for index in range(len(net.configs())):
        net.select(index)
        again.select(index)
        assert torch.equal(outputs(net), outputs(again))
    (tmp_path / "other.safetensors").write_bytes(b"nothing")
    with pytest.raises(GuideError, match="is not a stitchable network"):
        StitchableNet.load(tmp_path / "other.safetensors", others)


def test_training_draws_every_network_and_counts_what_it_spends(
    anchors: list[Anchor], task: ImageTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = StitchableNet(anchors, size=1)
    net.fit(100)
    drawn: Counter[int] = Counter()
    select = StitchableNet.select

    def counting(self: StitchableNet, index: int) -> None:
        if self.training:
            drawn[index] += 1
        select(self, index)

    monkeypatch.setattr(StitchableNet, "select", counting)
    recipe = Recipe(epochs=8, batch_size=27, learning_rate=5e-3, align_examples=90)
    weights = {name: tensor.clone() for name, tensor in net.named_parameters()}
    *epochs, last = train_stitches(net, task, recipe, seed=0)
    losses = [epoch.loss for epoch in epochs if isinstance(epoch, EpochLoss)]
    assert len(losses) == len(epochs) and isinstance(last, StitchesTrained)
    assert losses[-1] < losses[0]
    assert set(drawn) == set(range(len(net.configs())))
    assert all(not torch.equal(tensor, weights[n]) for n, tensor in net.named_parameters())
    macs = [config.cost.macs for config in net.configs()]
    whole = next(c.cost.macs for c in net.configs() if str(c) == "large")
    spent = sum(3 * 27 * macs[i] * times for i, times in drawn.items())
    assert last.macs == spent + task.size("train") * whole + 90 * sum(macs)


def test_transformers_of_unequal_width_and_depth(task: ImageTask) -> None:
    anchors = [Anchor("small", vit(8, 0, 2), task), Anchor("large", vit(12, 1, 3), task)]
    net = StitchableNet(anchors)
    assert max(net.fit(20)) <= 1
    assert net.statistics.numel() == 0
    for index in range(len(net.configs())):
        net.select(index)
        torch.testing.assert_close(outputs(net.extract(index)), outputs(net), atol=1e-6, rtol=0)


def test_anchors_of_two_families(task: ImageTask) -> None:
    # Maps of 4x4 behind the stem, 16 tokens and a class token.
    anchors = [Anchor("conv", resnet(4, 0, 2), task), Anchor("vit", vit(12, 1, 3), task)]
    net = StitchableNet(anchors, size=1)
    assert {c.front for c in net.configs() if c.stitch is not None} == {"conv"}
    net.fit(100)
    for index in range(len(net.configs())):
        net.select(index)
        torch.testing.assert_close(outputs(net.extract(index)), outputs(net), atol=1e-6, rtol=0)


def test_anchors_that_do_not_belong_together(anchors: list[Anchor], task: ImageTask) -> None:
    large, small = anchors
    with pytest.raises(GuideError, match="two anchors or more, got 1"):
        StitchableNet([large])
    with pytest.raises(GuideError, match="different names"):
        StitchableNet([large, replace(small, name="large")])
    flipped = [(image, 2 - label) for image, label in _blobs(300, 0)]
    data = [from_datasets(d, _blobs(30, 1), (1, 8, 8), 3, name="b") for d in (flipped, flipped)]
    with pytest.raises(GuideError, match="share their data: 'small' and 'large'"):
        StitchableNet([large, replace(small, task=data[0])])
    ten = from_datasets(_blobs(300, 0), _blobs(30, 1), (1, 8, 8), classes=10)
    with pytest.raises(GuideError, match=r"'small' maps .* to \(D\) = \(3\).*\(10\)"):
        StitchableNet([large, replace(small, task=ten)])
    with pytest.raises(GuideError, match="slow-to-fast"):
        StitchableNet(anchors, direction="up")  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="size 9 do not fit"):
        StitchableNet(anchors, size=9)


def test_another_order_of_classes_is_seen_in_the_predictions(task: ImageTask) -> None:
    network = resnet(8, 1, 1)
    for _ in train(network, task, Recipe(epochs=4, batch_size=27, learning_rate=1e-2), 0):
        pass
    twin = copy.deepcopy(network)
    head = next(m for m in twin.parts[-1].modules() if isinstance(m, nn.Linear))
    with torch.no_grad():
        head.weight.copy_(head.weight[[1, 2, 0]])
        head.bias.copy_(head.bias[[1, 2, 0]])
    net = StitchableNet([Anchor("one", network, task), Anchor("twin", twin, task)], size=1)
    with pytest.raises(GuideError, match="'twin' has its classes.*2 for class 0.*reorder"):
        net.fit(200)


def test_what_cannot_be_selected_or_fitted(anchors: list[Anchor], task: ImageTask) -> None:
    net = StitchableNet(anchors)
    with pytest.raises(GuideError, match="no stitched network 99: configs\\(\\) lists 0 to"):
        net.select(99)
    wide = [Anchor("a", resnet(64, 0, 1, 1), task), Anchor("b", resnet(80, 0, 1, 1), task)]
    with pytest.raises(ConversionError, match=r"stitch 0 from a to b: .* at least 5 examples"):
        StitchableNet(wide).fit(4)


def test_an_extracted_network_is_a_guide(anchors: list[Anchor]) -> None:
    net = StitchableNet(anchors)
    plain = net.extract(1)
    assert isinstance(plain, Guide) and not plain.training
    assert "stitch" in plain.names and plain.names[0] == "small.stem"
    with torch.no_grad():
        plain.parts[0].get_parameter(next(iter(dict(plain.parts[0].named_parameters())))).zero_()
    net.select(1)
    assert not torch.equal(outputs(plain), outputs(net))

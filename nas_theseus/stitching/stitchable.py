"""Stitchable networks: anchors joined by stitches, with a cost that can be switched at run time."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from pathlib import Path
from typing import Literal, get_args

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from nas_theseus.conversion.stitch_layer import Stitch, fit_stitch_batches, make_stitch
from nas_theseus.conversion.target import batch_norms
from nas_theseus.costs import count_macs, count_params
from nas_theseus.errors import GuideError
from nas_theseus.guide.chain import Guide, device_of
from nas_theseus.guide.weights import load_weights, plain_state
from nas_theseus.stitching.anchors import Anchor, check_anchors, check_class_order
from nas_theseus.stitching.measure import refuse_too_few
from nas_theseus.stitching.windows import sliding_windows
from nas_theseus.storage.json_files import MALFORMED, parse_json
from nas_theseus.storage.whole_files import write_bytes
from nas_theseus.values.outcomes import Cost

Direction = Literal["fast-to-slow", "slow-to-fast"]


@dataclass(frozen=True)
class StitchConfig:
    """One network of a stitchable net: an anchor, or the front of one and the back of another.

    Attributes:
        front, leave: the anchor that takes the input, and its boundary at which it is left.
        stitch: number of the stitch between them; None for an anchor alone.
        back, enter: the anchor that returns the output, and its boundary at which it is entered.
        cost: MACs for one input and parameters, including the stitch.
    """

    front: str
    leave: int
    stitch: int | None
    back: str
    enter: int
    cost: Cost

    def __str__(self) -> str:
        if self.stitch is None:
            return self.front
        return f"{self.front}[:{self.leave}]→{self.back}[{self.enter}:]"


class StitchableNet(nn.Module):
    """Anchors of one family and the stitches between them; one network at a time is selected.

    The anchors are copied. Stitches start with torch's own (Kaiming) weights; `fit` sets them to
    the least-squares solution. Batch norms see different statistics in every network, so each
    network has its own, which `select` installs. Until `training.calibrate` they are the anchors'
    (ours).

    Args:
        anchors: at least two anchors for one task, in any order.
        size, stride: size and stride of the sliding windows, k and s.
        direction: fast-to-slow starts in the smaller anchor and ends in the larger.
        nearest: stitch only anchors that are neighbours by MACs; otherwise every pair.

    Raises:
        GuideError: the anchors do not share task and data.
        ShapeError: the windows do not fit, or two anchors cannot be stitched.
        CostError: an anchor's MACs cannot be counted.

    Source: Pan, Cai, Zhuang 2023 (SN-Net), arXiv:2302.06586, section 3.
    """

    statistics: Tensor

    def __init__(
        self,
        anchors: Sequence[Anchor],
        *,
        size: int = 2,
        stride: int = 1,
        direction: Direction = "fast-to-slow",
        nearest: bool = True,
    ) -> None:
        super().__init__()
        check_anchors(anchors)
        if direction not in get_args(Direction):
            raise GuideError(
                f"direction must be {' or '.join(get_args(Direction))}, not {direction!r}"
            )
        self.task = anchors[0].task
        part_macs = {
            anchor.name: [
                count_macs(part, inlet)
                for part, inlet in zip(
                    anchor.network.parts, anchor.network.boundaries[:-1], strict=True
                )
            ]
            for anchor in anchors
        }
        ordered = sorted(anchors, key=lambda anchor: sum(part_macs[anchor.name]))
        self.names = tuple(anchor.name for anchor in ordered)
        self.anchors = nn.ModuleDict({a.name: copy.deepcopy(a.network).cpu() for a in ordered})
        self.settings = {
            "size": size,
            "stride": stride,
            "direction": direction,
            "nearest": nearest,
        }
        self.stitches = nn.ModuleList()
        found = []
        for n in self.names:
            parts, params = len(self.anchor(n)), count_params(self.anchor(n))
            cost = Cost({"macs": sum(part_macs[n]), "params": params})
            found.append(StitchConfig(n, parts, None, n, parts, cost))
        self.windows: list[tuple[str, str, tuple[tuple[int, int], ...]]] = []
        for small, large in pairwise(self.names) if nearest else combinations(self.names, 2):
            front, back = (small, large) if direction == "fast-to-slow" else (large, small)
            found += self._join(front, back, size, stride, part_macs)
        self._configs = tuple(sorted(found, key=lambda c: (c.cost.macs, str(c))))
        self._paths = [self._path(config) for config in self._configs]
        self._norms = batch_norms(self)
        self._widths = [norm.num_features for norm in self._norms for _ in range(2)]
        self.register_buffer("statistics", torch.zeros(len(self._configs), sum(self._widths)))
        self.adopt({})
        self.selected = len(self._configs) - 1
        self.eval()

    def anchor(self, name: str) -> Guide:
        """This net's own copy of an anchor."""
        found = self.anchors[name]
        assert isinstance(found, Guide)
        return found

    def configs(self) -> tuple[StitchConfig, ...]:
        """All networks, including the anchors, by ascending MACs; `select` takes their index."""
        return self._configs

    def select(self, index: int) -> None:
        """Select the network `index` of `configs` for all following forward passes.

        Raises:
            GuideError: there is no such network.
        """
        if not 0 <= index < len(self._configs):
            raise GuideError(
                f"no stitched network {index!r}: configs() lists 0 to {len(self._configs) - 1}"
            )
        self.selected = index
        if self._widths:
            with torch.no_grad():
                torch._foreach_copy_(
                    self._running(), torch.split(self.statistics[index], self._widths)
                )

    def adopt(self, anchors: Mapping[str, Guide]) -> None:
        """Copy the weights of trained anchors, and their statistics for every network."""
        for name, network in anchors.items():
            self.anchor(name).load_state_dict(network.state_dict())
        if self._widths:
            self.statistics[:] = torch.cat(self._running())

    def forward(self, inputs: Tensor) -> Tensor:
        features = inputs
        for module in self._paths[self.selected]:
            features = module(features)
        return features

    def extract(self, index: int) -> Guide:
        """A copy of one network as a plain chain in eval mode, without the other networks."""
        return Guide(self.copied_parts(index), self.task.inlet).eval()

    def copied_parts(self, index: int) -> list[tuple[str, nn.Module]]:
        """Names and copies of one network's parts, with its own statistics."""
        before = self.selected
        self.select(index)
        parts = copy.deepcopy(self._named(self._configs[index]))
        self.select(before)
        return parts

    def keep_statistics(self) -> None:
        """Save the current batch-norm statistics as those of the selected network."""
        if self._widths:
            self.statistics[self.selected] = torch.cat(self._running())

    def fit(self, examples: int = 512) -> list[float]:
        """Set every stitch to the least-squares solution over all pairs of its window.

        Args:
            examples: number of the task's training inputs; a few hundred.

        Returns:
            For each stitch, the share of the receiver's variance that it leaves unexplained.

        Raises:
            ConversionError: there are too few inputs, or activations are NaN or infinite.
            GuideError: an anchor has its classes in another order than the task.

        Source: Pan et al. 2023, section 3 (M = A⁺B, here with intercept).
        """
        before, was_training = self.selected, self.training
        self.eval()
        batch = next(iter(self.task.batches("train", examples, limit=examples)))
        sample = batch.inputs
        for name in self.names:
            self._select_anchor(name)
            check_class_order(Anchor(name, self.anchor(name), self.task), sample, batch.targets)
        residuals = []
        for number, (front, back, pairs) in enumerate(self.windows):
            stitch = self.stitches[number]
            assert isinstance(stitch, Stitch)
            refuse_too_few(stitch, len(sample), f"stitch {number} from {front} to {back}")
            features = [
                self._features(name, sample, {pair[side] for pair in pairs})
                for side, name in enumerate((front, back))
            ]
            batches = ((a[p], b[q]) for p, q in pairs for a, b in zip(*features, strict=True))
            residuals.append(fit_stitch_batches(stitch, batches))
        self.select(before)
        self.train(was_training)
        return residuals

    def save(self, path: Path) -> None:
        """Write weights and statistics as safetensors, with the net's settings as metadata.

        Raises:
            StorageError: the file cannot be written.
        """
        made = {"anchors": {n: list(self.anchor(n).names) for n in self.names}, **self.settings}
        metadata = {"stitchable": json.dumps(made)}
        write_bytes(path, safetensors.torch.save(plain_state(self), metadata))

    @classmethod
    def load(cls, path: Path, anchors: Sequence[Anchor]) -> StitchableNet:
        """Rebuild a saved net from anchors of the same names and parts, with any weights.

        Raises:
            GuideError: the file is missing, damaged, or from a net of other anchors.
        """
        try:
            with safetensors.safe_open(path, "pt") as file:
                made = parse_json((file.metadata() or {})["stitchable"])
            names = made.pop("anchors")
        except (OSError, *MALFORMED, safetensors.SafetensorError) as error:
            raise GuideError(
                f"{path} is not a stitchable network: {error}; use a file written by save()"
            ) from error
        given = {anchor.name: list(anchor.network.names) for anchor in anchors}
        if given != names:
            raise GuideError(
                f"{path} has anchors {', '.join(names)} with parts {list(names.values())}, but got "
                f"{', '.join(given)} with parts {list(given.values())}"
            )
        net = cls(anchors, **made)
        load_weights(net, path)
        net.select(net.selected)
        return net

    def _join(
        self, front: str, back: str, size: int, stride: int, part_macs: dict[str, list[int]]
    ) -> list[StitchConfig]:
        """Add stitches from one anchor to another, and return their networks."""
        a, b = self.anchor(front), self.anchor(back)
        found = []
        for window in sliding_windows(a.boundaries, b.boundaries, size, stride):
            (leave, enter), *_ = window.pairs  # of one stage, so all of the same shapes
            stitch = make_stitch(a.boundaries[leave], b.boundaries[enter])
            macs = count_macs(stitch, stitch.inlet)
            for p, q in window.pairs:
                modules = (*a.parts[:p], stitch, *b.parts[q:])
                total = sum(part_macs[front][:p]) + macs + sum(part_macs[back][q:])
                cost = Cost({"macs": total, "params": count_params(*modules)})
                found.append(StitchConfig(front, p, len(self.stitches), back, q, cost))
            self.stitches.append(stitch)
            self.windows.append((front, back, window.pairs))
        return found

    def _named(self, config: StitchConfig) -> list[tuple[str, nn.Module]]:
        """Names and modules of one network, from input to output."""

        def parts(name: str, which: slice) -> list[tuple[str, nn.Module]]:
            anchor = self.anchor(name)
            names = (f"{name}.{part}" for part in anchor.names[which])
            return list(zip(names, anchor.parts[which], strict=True))

        front = parts(config.front, slice(config.leave))
        if config.stitch is None:
            return front
        stitch = self.stitches[config.stitch]
        return [*front, ("stitch", stitch), *parts(config.back, slice(config.enter, None))]

    def _path(self, config: StitchConfig) -> list[nn.Module]:
        return [module for _, module in self._named(config)]

    def _running(self) -> list[Tensor]:
        found = [s for norm in self._norms for s in (norm.running_mean, norm.running_var)]
        return [statistic for statistic in found if statistic is not None]

    def _select_anchor(self, name: str) -> None:
        self.select(next(i for i, c in enumerate(self._configs) if str(c) == name))

    def _features(self, name: str, sample: Tensor, at: set[int]) -> list[dict[int, Tensor]]:
        """An anchor's activations, with the anchor's own statistics, batch by batch."""
        self._select_anchor(name)
        anchor = self.anchor(name)
        with torch.no_grad():
            device = device_of(anchor)
            return [anchor.features(x.to(device), at) for x in torch.split(sample, 256)]

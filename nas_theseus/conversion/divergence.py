"""Divergence of the guide's outputs when one block stands in it, from kept activations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor, nn

from nas_theseus.conversion.guide_work import GuideWork
from nas_theseus.conversion.projection import Projection
from nas_theseus.conversion.selection import Selection
from nas_theseus.costs import count_macs
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import Task
from nas_theseus.values.architecture import Span

# Largest sizes of the activations at all boundaries, of kept outputs, and of one chunk's outputs.
ACTIVATION_BYTES, OUTPUT_BYTES, CHUNK_BYTES = 1 << 30, 256 << 20, 64 << 20
# Most positions of sequences: a sequence counts as the tokens that it has.
POSITIONS = 16_384
_CHUNK = 256


class ReplaceOne:
    """The guide on validation examples, with any one of its spans replaced by a block.

    The guide's validation activations are computed once and shared with other processes. A block is
    measured by running it and the guide's parts behind it; the parts before it do not run again.

    The divergence is the task's own distillation at temperature 1, in float32. For classes, labels
    and tokens it is the KL divergence from the guide's distribution in nats, the mean over examples
    and their positions. For numbers it is the squared difference in units of their spread.

    Args:
        guide: guide on `device`, in eval mode.
        task: a task with distillation.
        examples: number of validation examples, in a fixed random order. Fewer are used if the
            split has fewer, if the activations at all boundaries would exceed `ACTIVATION_BYTES`,
            or if sequences would have more than `POSITIONS` positions in all.
        folder: folder to share results with other processes. Default: no sharing.
        output_bytes: the guide's outputs are kept if they have at most this size. Larger ones, such
            as logits over a large vocabulary, are computed again from the last boundary for every
            block, a chunk of examples at a time.

    Attributes:
        count: number of examples used.

    Source: Bercovich et al. 2024 (Puzzle), arXiv:2411.19146, scores each block by the KL divergence
    of the outputs with it alone replaced. Ours: other tasks, and blocks between free widths.
    """

    def __init__(
        self,
        guide: Guide,
        task: Task,
        examples: int,
        device: torch.device,
        folder: Path | None = None,
        output_bytes: int = OUTPUT_BYTES,
    ) -> None:
        self._guide = guide.eval().requires_grad_(False)
        self._task, self._device, self._folder = task, device, folder
        self.count = _examples_used(guide, task, examples)
        example_bytes = 4 * math.prod(task.outputs.shape)
        self._keeps_outputs = self.count * example_bytes <= output_bytes
        self._chunk = max(1, min(_CHUNK, CHUNK_BYTES // example_bytes))
        self._found: dict[int, Tensor] = {}
        self._without: dict[tuple[int, int], float] = {}

    def divergence(
        self,
        block: nn.Module,
        span: Span,
        enter: Projection | Selection | None = None,
        leave: Projection | Selection | None = None,
    ) -> float:
        """Divergence of the guide's outputs with a block in the place of a span.

        Args:
            block: block on the guide's device, in eval mode and in the guide's basis.
            enter, leave: projections at the block's inlet and outlet, where a boundary has another
                width than the guide's. What they lose counts as the block's error.

        Returns:
            At least 0; 0 for the guide's own parts.

        Raises:
            ConversionError: the outputs are not finite.
        """
        behind = self._guide.parts[span.stop :]
        total = 0.0
        with torch.no_grad():
            given = torch.split(self.at(span.start), self._chunk)
            for features, teacher in zip(given, self._outputs(), strict=True):
                # Copied, since a block may change its input in place.
                inputs = features.clone() if enter is None else enter.to_target(features)
                outputs = block(inputs)
                if leave is not None:
                    outputs = leave.to_guide(outputs)
                outputs = _through(behind, outputs)
                found = self._task.distillation(outputs.float(), teacher, 1.0)
                total += float(found) * len(features)
        if not math.isfinite(total):
            raise ConversionError(
                f"with the block in the place of parts {span}, the guide's outputs on validation "
                "data are not finite"
            )
        # Rounding makes tiny divergences negative.
        return max(0.0, total / self.count)

    def divergence_without(self, span: Span, selection: Selection) -> float:
        """Divergence of the guide's outputs without the channels that a boundary leaves out.

        Args:
            span: it begins at the boundary.
            selection: the channels that the boundary keeps.

        Raises:
            ConversionError: the outputs are not finite.
        """
        case = (span.start, len(selection.channels))
        if case not in self._without:
            parts = self._guide.parts[span.start : span.stop]
            inner = _Without(selection, parts)
            self._without[case] = self.divergence(inner, span)
        return self._without[case]

    def macs(self, span: Span, block_macs: int) -> int:
        """Multiply-adds of one `divergence`, without what is computed once for all blocks.

        Args:
            block_macs: of the block for one example.
        """
        behind = sum(self._part_macs[span.stop :])
        again = 0 if self._keeps_outputs else self._part_macs[-1]
        return self.count * (block_macs + behind + again)

    def at(self, boundary: int) -> Tensor:
        """The guide's validation activations at a boundary, shape (count, *boundary)."""
        if boundary not in self._found:
            name = f"boundary-{boundary}"
            self._found[boundary] = (
                self._inputs if boundary == 0 else self._once(name, lambda: self._run(boundary))
            )
        return self._found[boundary]

    @cached_property
    def _inputs(self) -> Tensor:
        batches = self._task.batches("validation", self.count, seed=0, limit=self.count)
        return torch.cat([batch.inputs for batch in batches]).to(self._device)

    @cached_property
    def _work(self) -> GuideWork | None:
        if self._folder is None:
            return None
        return GuideWork(self._folder, self._guide, self._inputs, self._device)

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        return compute() if self._work is None else self._work.get(name, compute)

    def _run(self, boundary: int) -> Tensor:
        nearest = max((known for known in self._found if known < boundary), default=0)
        between = self._guide.parts[nearest:boundary]
        with torch.no_grad():
            chunks = torch.split(self.at(nearest), self._chunk)
            return torch.cat([_through(between, chunk) for chunk in chunks])

    def _outputs(self) -> Iterable[Tensor]:
        """The guide's outputs, chunk by chunk, in float32."""
        last = len(self._guide)
        if self._keeps_outputs:
            return (chunk.float() for chunk in torch.split(self.at(last), self._chunk))
        kept, head = self.at(last - 1), self._guide.parts[last - 1 :]
        return (_through(head, chunk).float() for chunk in torch.split(kept, self._chunk))

    @cached_property
    def _part_macs(self) -> list[int]:
        parts, boundaries = self._guide.parts, self._guide.boundaries
        return [count_macs(part, inlet) for part, inlet in zip(parts, boundaries, strict=False)]


class _Without(nn.Module):
    """Parts that read predictions in place of the channels left out."""

    def __init__(self, selection: Selection, parts: Iterable[nn.Module]) -> None:
        super().__init__()
        self._selection, self._parts = selection, list(parts)

    def forward(self, features: Tensor) -> Tensor:
        kept = self._selection.to_target(features)
        return _through(self._parts, self._selection.to_guide(kept))


def _through(parts: Iterable[nn.Module], features: Tensor) -> Tensor:
    for part in parts:
        features = part(features)
    return features


def _examples_used(guide: Guide, task: Task, examples: int) -> int:
    inner = 4 * sum(math.prod(boundary.shape) for boundary in guide.boundaries[:-1])
    most = [examples, task.size("validation"), ACTIVATION_BYTES // inner]
    if len(task.outputs.shape) == 2:
        most.append(POSITIONS // task.outputs.shape[0])
    return max(1, min(most))

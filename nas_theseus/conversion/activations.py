"""The guide's activations at its boundaries for a bounded sample, and logits, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from functools import cached_property, partial
from pathlib import Path

import torch
from torch import Tensor

from nas_theseus.conversion.guide_work import GuideWork
from nas_theseus.conversion.projection import Projection
from nas_theseus.conversion.selection import Selection
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import Task
from nas_theseus.transforms.stream_channels import stream_order, streams
from nas_theseus.values.recipe import ActivationsDtype

SAMPLE_LIMIT_BYTES = 2 << 30
# The guide's outputs for a whole training split are stored if they take at most this.
OUTPUTS_LIMIT_BYTES = 2 << 30
# Rounded activations are computed in chunks whose largest boundary takes at most this.
_CHUNK_BYTES = 64 << 20


def sample_size(
    guide: Guide,
    examples: int,
    limit_bytes: int = SAMPLE_LIMIT_BYTES,
    dtype: ActivationsDtype = "float32",
) -> int:
    """Number of examples, at most `examples`, whose activations at all boundaries fit the limit.

    A sample whose activations are stored in bfloat16 is never shortened; see `room`.
    """
    if dtype == "bfloat16":
        return examples
    example_bytes = 4 * sum(math.prod(b.shape) for b in guide.boundaries)
    return min(examples, max(2, limit_bytes // example_bytes))


class GuideActivations:
    """The guide's activations for a bounded sample of training inputs, and its training logits.

    The sample's augmentation is fixed. The guide is in eval mode and never changed.

    Activations in float32 are exact. Activations in bfloat16 are those of a guide whose boundaries
    are rounded: each boundary is computed from the rounded one before it, so that they do not
    depend on which boundary was asked for first. What is over the limit in memory is dropped, and
    read again from `folder` or computed again.

    Args:
        guide: guide on `device`.
        sample: inputs, shape (N, *inlet).
        limit_bytes: memory for activations. In float32 the sample is shortened so that those at all
            boundaries fit into this.
        folder: folder to share results with other processes. Default: no sharing.
        dtype: how activations are stored; they are returned in float32.
        selects: whether the basis of a narrower boundary is a selection of the guide's channels
            (`SearchSpace.selects_channels`).
    """

    def __init__(
        self,
        guide: Guide,
        sample: Tensor,
        device: torch.device,
        limit_bytes: int = SAMPLE_LIMIT_BYTES,
        folder: Path | None = None,
        dtype: ActivationsDtype = "float32",
        *,
        selects: bool = False,
    ) -> None:
        self._selects = selects
        self._orders: dict[int, Tensor] = {}
        self._guide = guide.eval().requires_grad_(False)
        self._device = device
        self._limit_bytes, self._rounded = limit_bytes, dtype == "bfloat16"
        self.count = sample_size(guide, len(sample), limit_bytes, dtype)
        self._sample = sample[: self.count].to(device)
        # By boundary; the least recently used one is first.
        self._found: dict[int, Tensor] = {}
        self._projections: dict[tuple[int, int], Projection | Selection] = {}
        self._logits: dict[str, Tensor] = {}
        self._work = None
        if folder is not None:
            self._work = GuideWork(folder, self._guide, self._sample, device)

    @property
    def guide(self) -> Guide:
        """The guide itself, on the device, in eval mode."""
        return self._guide

    def at(self, boundary: int, width: int | None = None) -> Tensor:
        """Activations at one boundary, shape (count, *boundary), computed on first use.

        Args:
            boundary: 0 is the input.
            width: width of the activations, which are projected if it is not the guide's.
        """
        if width is not None and width != self._guide.boundaries[boundary].width:
            return self.projection(boundary, width).to_target(self.at(boundary))
        if boundary == 0:
            return self._sample
        if self._rounded:
            found = self._stored(boundary)
            return found.float() if found.is_floating_point() else found
        name = f"boundary-{boundary}"
        return self._held(boundary, name, lambda: self._activations(boundary))

    def _stored(self, boundary: int) -> Tensor:
        """Rounded activations, from the nearest earlier boundary that is stored."""
        start = boundary
        while start > 0 and not self._is_stored(start):
            start -= 1
        found = self._sample
        for index in range(max(1, start), boundary + 1):
            compute = partial(self._next, index, found if index > start else None)
            found = self._held(index, f"boundary-{index}-bfloat16", compute)
        return found

    def _is_stored(self, boundary: int) -> bool:
        saved = self._work is not None and self._work.holds(f"boundary-{boundary}-bfloat16")
        return saved or boundary in self._found

    def _held(self, boundary: int, name: str, compute: Callable[[], Tensor]) -> Tensor:
        """Activations that are in memory, or are read or computed; drops others over the limit."""
        found = self._found.pop(boundary, None)
        if found is None:
            found = self._once(name, compute)
        self._found[boundary] = found
        over = sum(map(_size, self._found.values())) - self._limit_bytes
        for oldest in list(self._found)[:-1]:
            if over <= 0:
                break
            over -= _size(self._found.pop(oldest))
        return found

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        return compute() if self._work is None else self._work.get(name, compute)

    def _activations(self, boundary: int) -> Tensor:
        nearest = max((known for known in self._found if known < boundary), default=0)
        between = self._guide.parts[nearest:boundary]
        chunks = []
        with torch.no_grad():
            for features in torch.split(self._found.get(nearest, self._sample), 256):
                for part in between:
                    features = part(features)
                chunks.append(features)
        found = torch.cat(chunks)
        self._refuse_infinite(boundary, found)
        return found

    def _next(self, boundary: int, before: Tensor | None) -> Tensor:
        """Rounded activations from those at the boundary before, which may have been lost."""
        if before is None:
            before = self._stored(boundary - 1) if boundary > 1 else self._sample
        shapes = (self._guide.boundaries[index].shape for index in (boundary - 1, boundary))
        chunk = max(1, _CHUNK_BYTES // (4 * max(map(math.prod, shapes))))
        chunks = []
        with torch.no_grad():
            for features in torch.split(before, chunk):
                given = features.float() if features.dtype == torch.bfloat16 else features
                made = self._guide.parts[boundary - 1](given)
                chunks.append(made.bfloat16() if made.is_floating_point() else made)
        found = torch.cat(chunks)
        self._refuse_infinite(boundary, found)
        return found

    def _refuse_infinite(self, boundary: int, found: Tensor) -> None:
        if not torch.isfinite(found).all():
            raise ConversionError(
                f"the guide has NaN or infinite values at boundary {boundary}, after part "
                f"{self._guide.names[boundary - 1]!r}; its activations must be finite on training "
                "data"
            )

    def projection(self, boundary: int, width: int) -> Projection | Selection:
        """The guide's basis at a boundary of another width, computed on first use."""
        if (boundary, width) not in self._projections:
            # Scoring may call this first, but gradients cannot flow through inference tensors.
            with torch.inference_mode(False):
                self._projections[boundary, width] = self._projection(boundary, width)
        return self._projections[boundary, width]

    def _projection(self, boundary: int, width: int) -> Projection | Selection:
        if self._selects and width < self._guide.boundaries[boundary].width:
            return Selection.of(self.at(boundary), self.channels(boundary, width))
        return Projection.of(self.at(boundary), width)

    def channels(self, boundary: int, width: int) -> Tensor:
        """The guide's channels that a boundary of a width keeps, ascending, shape (width,).

        They are the same at all boundaries of a stream, and those of a smaller width are among
        those of a larger one.
        """
        stream = next(each for each in self._streams if boundary in each)
        if stream.start not in self._orders:
            with torch.inference_mode(False):
                name = f"stream-{stream.start}" + ("-bfloat16" if self._rounded else "")
                order = self._once(name, lambda: stream_order(self._guide, stream, self.at))
                self._orders[stream.start] = order.cpu()
        return self._orders[stream.start][-width:].sort().values

    @cached_property
    def _streams(self) -> tuple[range, ...]:
        return streams(self._guide)

    def caches(self, task: Task) -> bool:
        """Whether the guide's outputs for the whole training split are small enough to store."""
        return 4 * task.size("train") * math.prod(task.outputs.shape) <= OUTPUTS_LIMIT_BYTES

    def logits(self, task: Task) -> Tensor:
        """The guide's outputs for the whole training split in order, shape (size, *outputs)."""
        key = task.data_hash()
        if key not in self._logits:
            self._logits[key] = self._once(f"logits-{key}", lambda: self._outputs(task))
        return self._logits[key]

    def _outputs(self, task: Task) -> Tensor:
        with torch.no_grad():
            batches = task.batches("train", 512, device=self._device)
            return torch.cat([self._guide(batch.inputs).float() for batch in batches])

    def teach(self, inputs: Tensor) -> Tensor:
        """The guide's outputs for inputs that are not cached (augmented, streamed or too many)."""
        with torch.no_grad():
            out: Tensor = self._guide(inputs).float()
        return out

    def states(self, inputs: Tensor, at: Collection[int]) -> dict[int, Tensor]:
        """The guide's activations for other inputs at some boundaries, in one pass.

        Args:
            inputs: shape (N, *inlet).
            at: boundaries; the last one is the outputs.

        Returns:
            Activations by boundary, shapes (N, *boundary), without gradient.
        """
        with torch.no_grad():
            found = self._guide.features(inputs, at)
        return {boundary: features.float() for boundary, features in found.items()}


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

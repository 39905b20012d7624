"""The guide's activations at its boundaries for a bounded sample, and logits, computed once."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nas_theseus.conversion.guide_work import GuideWork
from nas_theseus.conversion.projection import Projection
from nas_theseus.errors import ConversionError
from nas_theseus.guide.chain import Guide
from nas_theseus.tasks import Task

SAMPLE_LIMIT_BYTES = 2 << 30


def sample_size(guide: Guide, examples: int, limit_bytes: int = SAMPLE_LIMIT_BYTES) -> int:
    """Number of examples, at most `examples`, whose activations at all boundaries fit the limit."""
    example_bytes = 4 * sum(math.prod(b.shape) for b in guide.boundaries)
    return min(examples, max(2, limit_bytes // example_bytes))


class GuideActivations:
    """The guide's activations for a bounded sample of training inputs, and its training logits.

    The sample's augmentation is fixed. The guide is in eval mode and never changed.

    Args:
        guide: guide on `device`.
        sample: inputs, shape (N, *inlet).
        limit_bytes: the sample is shortened so that the activations at all boundaries fit into
            this.
        folder: folder to share results with other processes. Default: no sharing.
    """

    def __init__(
        self,
        guide: Guide,
        sample: Tensor,
        device: torch.device,
        limit_bytes: int = SAMPLE_LIMIT_BYTES,
        folder: Path | None = None,
    ) -> None:
        self._guide = guide.eval().requires_grad_(False)
        self._device = device
        self.count = sample_size(guide, len(sample), limit_bytes)
        self._found: dict[int, Tensor] = {0: sample[: self.count].to(device)}
        self._projections: dict[tuple[int, int], Projection] = {}
        self._logits: dict[str, Tensor] = {}
        inputs = self._found[0]
        self._work = None if folder is None else GuideWork(folder, self._guide, inputs, device)

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
        if boundary not in self._found:
            self._found[boundary] = self._once(
                f"boundary-{boundary}", lambda: self._activations(boundary)
            )
        return self._found[boundary]

    def _once(self, name: str, compute: Callable[[], Tensor]) -> Tensor:
        return compute() if self._work is None else self._work.get(name, compute)

    def _activations(self, boundary: int) -> Tensor:
        nearest = max(known for known in self._found if known < boundary)
        between = self._guide.parts[nearest:boundary]
        chunks = []
        with torch.no_grad():
            for features in torch.split(self._found[nearest], 256):
                for part in between:
                    features = part(features)
                chunks.append(features)
        found = torch.cat(chunks)
        if not torch.isfinite(found).all():
            raise ConversionError(
                f"the guide has NaN or infinite values at boundary {boundary}, after part "
                f"{self._guide.names[boundary - 1]!r}; its activations must be finite on training "
                "data"
            )
        return found

    def projection(self, boundary: int, width: int) -> Projection:
        """The guide's basis at a boundary of another width, computed on first use."""
        if (boundary, width) not in self._projections:
            # Scoring may call this first, but gradients cannot flow through inference tensors.
            with torch.inference_mode(False):
                self._projections[boundary, width] = Projection.of(self.at(boundary), width)
        return self._projections[boundary, width]

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
        """The guide's outputs for inputs that are not cached (augmented or streamed)."""
        with torch.no_grad():
            out: Tensor = self._guide(inputs).float()
        return out

"""Costs measured on each block once, and saved, so that every process reads the same numbers.

In a network, blocks are quicker or slower than alone: caches are warm, and a runtime fuses across
them. So every number is multiplied by what the guide takes as a whole over the sum of its parts.
"""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from torch import nn

from nas_theseus.costs.decoding import surrounded
from nas_theseus.costs.measures.weight_bytes import WeightBytes
from nas_theseus.costs.probe import eval_view
from nas_theseus.costs.taking import measured_on_blocks
from nas_theseus.errors import CostError
from nas_theseus.guide.chain import Guide
from nas_theseus.storage.json_lines import JsonLines
from nas_theseus.values.architecture import Boundary
from nas_theseus.values.cost_measure import BlockMeasuredCost
from nas_theseus.values.fingerprint import fingerprint
from nas_theseus.values.ids import short_hash
from nas_theseus.values.member_fingerprint import member_fingerprint

logger = logging.getLogger(__name__)

# Increase this when measures of the package give other numbers for the same block.
FORMAT = 2
# Name of the table in a storage folder.
TABLE_FILE = "block_measurements.jsonl"
# Fingerprints by the measure's identity; the measure is held so that no other takes its place.
_MARKS: dict[int, tuple[BlockMeasuredCost, str]] = {}
_CPU_FACTS = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Place:
    """Where blocks were measured: what their numbers depend on besides the blocks.

    Attributes:
        device: kind of device, such as ``NVIDIA H200`` or a CPU's model.
        threads: torch's intra-operator threads.
        version: of torch.
        around: bytes of the guide's weights, up to a power of two: what the other blocks of a
            network put into the processor's cache meanwhile.
    """

    device: str
    threads: int
    version: str
    around: int = 0

    @classmethod
    def here(cls, device: torch.device, threads: int | None = None, around: int = 0) -> Place:
        """The place of this process.

        Args:
            around: bytes of the guide's weights.

        Raises:
            CostError: torch does not see the device.
        """
        if device.type == "cuda":
            if not torch.cuda.is_available():
                raise CostError(
                    "costs of blocks are measured on the device of the trials, which is a GPU, and "
                    "torch sees none in this process; run it where the trials run, or leave "
                    "--gpus-per-trial out"
                )
            kind = torch.cuda.get_device_name(device)
        else:
            kind = _cpu_model() if device.type == "cpu" else device.type
        rounded = 1 << (around - 1).bit_length() if around else 0
        return cls(kind, threads or torch.get_num_threads(), torch.__version__, rounded)

    def __str__(self) -> str:
        size = f", in a network of up to {self.around:,} bytes" if self.around else ""
        return f"{self.device} with {self.threads} threads and torch {self.version}{size}"


def _cpu_model() -> str:
    try:
        lines = _CPU_FACTS.read_text().splitlines()
    except OSError:  # not Linux
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


def measurement_id(measure: BlockMeasuredCost, module: nn.Module, inlet: Boundary) -> str:
    """Twenty hexadecimal digits of all that a block's cost depends on, but for the place.

    They are the measure with its options, and the block's code, settings, shapes and inlet: blocks
    that differ in weights alone have the same cost.
    """
    tensors = [*module.named_parameters(), *module.named_buffers()]
    shapes = [[name, list(tensor.shape), str(tensor.dtype)] for name, tensor in tensors]
    given = FORMAT, measure.name, _mark(measure), fingerprint(module), shapes, asdict(inlet)
    return short_hash(given, 20)


def _mark(measure: BlockMeasuredCost) -> str:
    """A measure's fingerprint at its first use: one that counts its calls stays the same."""
    if id(measure) not in _MARKS:
        _MARKS[id(measure)] = measure, member_fingerprint("cost", measure.name, measure)
    return _MARKS[id(measure)][1]


class BlockMeasurements:
    """Measured costs of blocks, by `measurement_id`.

    Args:
        numbers: by id.
    """

    def __init__(self, numbers: Mapping[str, float]) -> None:
        self.numbers = dict(numbers)

    def has(self, measure: BlockMeasuredCost, module: nn.Module, inlet: Boundary) -> bool:
        """Whether the cost of a block is known."""
        return measurement_id(measure, module, inlet) in self.numbers

    def of(self, measure: BlockMeasuredCost, module: nn.Module, inlet: Boundary) -> float:
        """The cost of one block.

        Raises:
            CostError: it is not known.
        """
        name = measurement_id(measure, module, inlet)
        if name not in self.numbers:
            raise CostError(
                f"{measure.name} of {type(module).__name__} on {inlet} has not been measured; "
                "continue the search with 'nas-theseus search', which measures what is missing"
            )
        return self.numbers[name]


class BlockMeter(BlockMeasurements):
    """Measures the blocks that are not known, and appends them to a table for other searches.

    One process measures at a time, so that none disturbs another. The table has numbers as they
    were measured; those that are returned are corrected by the guide as a whole.

    Args:
        file: JSON lines of all places; created with the first measurement.
        device: where to measure.
        threads: torch's threads. Default: unchanged.
        numbers: known costs by id, corrected, which are not measured again.
        guide: the network of whose blocks these are, or whose parts they replace. Default: none;
            blocks find their own weights in the processor's cache, and nothing is corrected.

    Raises:
        CostError: torch does not see the device.
        StorageError: the table cannot be read.
    """

    def __init__(
        self,
        file: Path,
        device: torch.device,
        threads: int | None = None,
        numbers: Mapping[str, float] | None = None,
        guide: Guide | None = None,
    ) -> None:
        self._table, self._device, self._threads = JsonLines(file), device, threads
        self._guide = guide
        around = 0 if guide is None else WeightBytes().count(guide, Boundary((1,)))
        self.place = Place.here(device, threads, around)
        self._lock = FileLock(file.with_suffix(".lock"))
        self._raw = self._read()
        self._factors: dict[str, float] = {}
        super().__init__(numbers or {})

    def of(self, measure: BlockMeasuredCost, module: nn.Module, inlet: Boundary) -> float:
        """The cost of one block, measured if it is not known.

        Raises:
            CostError: it cannot be measured.
            StorageError: the table cannot be written.
        """
        name = measurement_id(measure, module, inlet)
        if name not in self.numbers:
            value = self._alone(measure, module, inlet)
            self.numbers[name] = value * self.factor(measure)
        return self.numbers[name]

    def factor(self, measure: BlockMeasuredCost) -> float:
        """Cost of the guide as a whole, over the sum of its parts.

        It is 1 without a guide, or, with a warning, if the guide cannot be measured: a space may
        replace just the parts that cannot.

        Raises:
            StorageError: the table cannot be written.
        """
        if self._guide is None:
            return 1.0
        parts = list(zip(self._guide.parts, self._guide.boundaries, strict=False))
        name = short_hash([measurement_id(measure, *part) for part in parts], 20)
        if name not in self._factors:
            try:
                total = sum(self._alone(measure, *part) for part in parts)
                blocks = [eval_view(part, self._device) for part in self._guide.parts]
                whole = self._kept(name, measure, blocks, self._guide.boundaries[0])
            except CostError as error:
                logger.warning(
                    "%s of blocks is not corrected by the guide: %s", measure.name, error
                )
                total = whole = 0.0
            self._factors[name] = whole / total if total > 0 and whole > 0 else 1.0
        return self._factors[name]

    def _alone(self, measure: BlockMeasuredCost, module: nn.Module, inlet: Boundary) -> float:
        """The cost of one block as it was measured."""
        name = measurement_id(measure, module, inlet)
        if name in self._raw:
            return self._raw[name]
        with surrounded(self.place.around, self._device):
            return self._kept(name, measure, [eval_view(module, self._device)], inlet)

    def _kept(
        self, name: str, measure: BlockMeasuredCost, blocks: Sequence[nn.Module], inlet: Boundary
    ) -> float:
        """The cost of blocks in a row; it is measured and kept if no process has done so."""
        self._table.path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._raw = self._read()
            if name not in self._raw:
                value = measured_on_blocks(measure, blocks, inlet, self._device, self._threads)
                kinds = dict.fromkeys(type(block).__name__ for block in blocks)
                self._table.append(
                    {
                        "id": name,
                        "cost": measure.name,
                        "value": value,
                        "unit": measure.unit,
                        "block": ", ".join(kinds),
                        "blocks": len(blocks),
                        "inlet": list(inlet.shape),
                        "place": asdict(self.place),
                    }
                )
                self._raw[name] = value
        return self._raw[name]

    def _read(self) -> dict[str, float]:
        """The numbers of this place; the first one counts where there are several."""
        here: dict[str, Any] = asdict(self.place)
        found: dict[str, float] = {}
        for line in self._table.read():
            if line.get("place") == here and isinstance(line.get("value"), int | float):
                found.setdefault(str(line.get("id")), line["value"])
        return found

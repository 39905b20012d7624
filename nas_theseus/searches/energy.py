"""Energy that the driver's machine took during a search, where its counters can be read."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

from nas_theseus.searches.folder import SearchFolder
from nas_theseus.storage.json_files import MALFORMED, numbers, read_json, whole
from nas_theseus.storage.whole_files import write_json

POWERCAP = Path("/sys/class/powercap")
# The counters of large processors begin again after some minutes at full load.
_EVERY_S = 20.0


@dataclass(frozen=True)
class Energy:
    """Energy of a machine, with all that ran on it meanwhile.

    Attributes:
        joules: by kind of counter: ``processors`` (their packages, without memory and disks) and
            ``gpus``. A kind that cannot be read is not there.
        launches: number of launches of the search that it was read in.
    """

    joules: Mapping[str, float]
    launches: int = 1

    @classmethod
    def read(cls, folder: SearchFolder) -> Energy | None:
        """What earlier launches of a search took; None if nothing was read, or it is damaged."""
        try:
            data = read_json(folder.energy_file)
            return cls(numbers(data["joules"]), whole(data["launches"]))
        except (OSError, *MALFORMED):
            return None

    def add_to(self, folder: SearchFolder) -> None:
        """Add it to what earlier launches took.

        Raises:
            StorageError: the folder cannot be written.
        """
        before = Energy.read(folder) or Energy({}, 0)
        names = dict.fromkeys([*before.joules, *self.joules])
        write_json(
            folder.energy_file,
            {
                "joules": {n: before.joules.get(n, 0) + self.joules.get(n, 0) for n in names},
                "launches": before.launches + self.launches,
            },
        )


class EnergyMeter:
    """Adds up what the counters of this machine count, from its making to `stop`.

    Processors are read through Linux's powercap, which many systems let only root read; GPUs
    through NVML, if the package nvidia-ml-py is installed.

    Args:
        powercap: folder of powercap's zones.
    """

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self._counters = {**_processors(powercap), **_gpus()}
        self._joules = dict.fromkeys((counter.kind for counter in self._counters.values()), 0.0)
        self._last = {name: counter.read() for name, counter in self._counters.items()}
        self._ended = Event()
        self._thread = Thread(target=self._watch, name="energy", daemon=True)
        if self._counters:
            self._thread.start()

    def stop(self) -> Energy | None:
        """What was taken; None if no counter can be read. It counts no further."""
        self._ended.set()
        if not self._counters:
            return None
        self._thread.join()
        self.count()
        return Energy(dict(self._joules))

    def _watch(self) -> None:
        while not self._ended.wait(_EVERY_S):
            self.count()

    def count(self) -> None:
        """Read all counters; a counter that can no longer be read stands still."""
        for name, counter in self._counters.items():
            try:
                now = counter.read()
            except Exception:  # NVML raises kinds of its own
                continue
            step = now - self._last[name]
            self._joules[counter.kind] += step if step >= 0 else step + counter.most
            self._last[name] = now


@dataclass(frozen=True)
class _Counter:
    """One counter of joules.

    Attributes:
        most: where it begins again from 0; 0 if it never does.
    """

    kind: str
    read: Callable[[], float]
    most: float = 0.0


def _processors(powercap: Path) -> dict[str, _Counter]:
    """Packages of processors; cores and memory are parts of them or counted elsewhere."""
    found = {}
    for zone in sorted(powercap.glob("intel-rapl:*")):  # AMD's have this name too
        try:
            if not (zone / "name").read_text().startswith("package"):
                continue
            most = int((zone / "max_energy_range_uj").read_text()) / 1e6
            counter = _Counter("processors", _microjoules(zone / "energy_uj"), most)
            counter.read()
        except (OSError, ValueError):
            continue
        found[zone.name] = counter
    return found


def _microjoules(path: Path) -> Callable[[], float]:
    return lambda: int(path.read_text()) / 1e6


def _gpus() -> dict[str, _Counter]:
    found = {}
    try:
        nvml: Any = importlib.import_module("pynvml")
        nvml.nvmlInit()
        for index in range(nvml.nvmlDeviceGetCount()):
            counter = _Counter("gpus", _millijoules(nvml, nvml.nvmlDeviceGetHandleByIndex(index)))
            counter.read()
            found[f"gpu{index}"] = counter
    except Exception:  # no package, no driver, or a GPU that counts nothing
        return {}
    return found


def _millijoules(nvml: Any, handle: Any) -> Callable[[], float]:
    return lambda: float(nvml.nvmlDeviceGetTotalEnergyConsumption(handle)) / 1e3

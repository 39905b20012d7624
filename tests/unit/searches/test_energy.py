"""Energy from counters that are files: they begin again, cannot be read, or are not there."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from nas_theseus.searches.energy import Energy, EnergyMeter
from nas_theseus.searches.folder import SearchFolder


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)


def zone(powercap: Path, name: str, kind: str, joules: float, most: float = 1000) -> Path:
    folder = powercap / name
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"{kind}\n")
    (folder / "max_energy_range_uj").write_text(f"{most * 1e6:.0f}\n")
    (folder / "energy_uj").write_text(f"{joules * 1e6:.0f}\n")
    return folder / "energy_uj"


def test_packages_are_added_up_and_counters_begin_again(tmp_path: Path) -> None:
    first = zone(tmp_path, "intel-rapl:0", "package-0", 990)
    second = zone(tmp_path, "intel-rapl:1", "package-1", 10)
    zone(tmp_path, "intel-rapl:0:0", "core", 5)
    whole = zone(tmp_path, "intel-rapl:2", "psys", 5)
    meter = EnergyMeter(tmp_path)
    for one in (first, second, whole):
        one.write_text("15000000\n")  # the first one began again after 1000 J
    meter.count()
    first.write_text("25000000\n")
    found = meter.stop()
    assert found is not None
    assert found.joules == pytest.approx({"processors": (1000 - 990 + 15) + 5 + 10})


def test_a_counter_that_vanishes_stands_still(tmp_path: Path) -> None:
    counter = zone(tmp_path, "intel-rapl:0", "package-0", 1)
    meter = EnergyMeter(tmp_path)
    counter.write_text("3000000\n")
    meter.count()
    counter.unlink()
    found = meter.stop()
    assert found is not None and found.joules == pytest.approx({"processors": 2.0})


@pytest.mark.parametrize("content", ["", "much"])
def test_what_cannot_be_read_is_not_there(tmp_path: Path, content: str) -> None:
    assert EnergyMeter(tmp_path / "none").stop() is None
    zone(tmp_path, "intel-rapl:0", "package-0", 1).write_text(content)
    assert EnergyMeter(tmp_path).stop() is None


def test_gpus_are_read_through_nvml(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NVML's own names and units (millijoules), on a machine without a GPU."""
    counts = iter([1_000, 2_000, 1_000, 2_000, 4_000, 9_000])
    nvml = ModuleType("pynvml")
    nvml.nvmlInit = lambda: None  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetCount = lambda: 2  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetHandleByIndex = lambda index: index  # type: ignore[attr-defined]
    nvml.nvmlDeviceGetTotalEnergyConsumption = lambda _: next(counts)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pynvml", nvml)
    found = EnergyMeter(tmp_path).stop()
    assert found is not None and found.joules == pytest.approx({"gpus": 3.0 + 7.0})


def test_launches_are_added_up(tmp_path: Path) -> None:
    folder = SearchFolder(tmp_path, "one")
    folder.create()
    assert Energy.read(folder) is None
    Energy({"processors": 10.0}).add_to(folder)
    Energy({"processors": 5.0, "gpus": 2.0}).add_to(folder)
    assert Energy.read(folder) == Energy({"processors": 15.0, "gpus": 2.0}, 2)
    folder.energy_file.write_text('{"joules": 3}')
    assert Energy.read(folder) is None

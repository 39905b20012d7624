"""One GPU shared by 1, 2 and 4 trials of a search; mixed precision against float32.

    python -m benchmarks.gpu

Each cell is a search by its command line, with the same guide and the same proposals (`--sampler
random --no-rungs`), each with a library of its own. A machine without a GPU that torch can use
gets figures without values.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.record import figure_table, write_record
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_front
from nas_theseus.values.outcomes import Evaluation

ROOT = Path(__file__).resolve().parent.parent
SHARED = (1, 2, 4)
# Put in front of a space file, which every worker runs before any work.
FLOAT32 = """
import torch
_autocast = torch.autocast
torch.autocast = lambda device, dtype=None, enabled=True: _autocast(device, dtype, enabled=False)
"""


class Watch:
    """The GPU's own account of itself, once a second, by nvidia-smi."""

    def __enter__(self) -> Watch:
        asked = "utilization.gpu,memory.used"
        self._process = subprocess.Popen(
            ["nvidia-smi", f"--query-gpu={asked}", "--format=csv,noheader,nounits", "-l", "1"],
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, *raised: object) -> None:
        self._process.terminate()
        said = self._process.communicate()[0]
        rows = [line.split(",") for line in said.splitlines() if line.count(",") == 1]
        self.utilisation = statistics.fmean(float(busy) / 100 for busy, _ in rows)
        self.peak_bytes = max(int(used) << 20 for _, used in rows)


def searched(text: str, space: Path, folder: Path, sharing: int, trials: int) -> dict[str, Any]:
    """One search, and how the GPU was used from its first result to its last."""
    storage = SearchFolder(folder / "theseus", f"shared-{sharing}")
    (folder / space.name).write_text(text)
    command = [
        sys.executable,
        "-m",
        "nas_theseus",
        "search",
        space.name,
        "--name",
        storage.name,
        "--trials",
        str(trials),
        "--parallel",
        str(sharing),
        "--gpus-per-trial",
        str(1 / sharing),
        "--cpus-per-trial",
        "1",
        "--sampler",
        "random",
        "--no-rungs",
        "--storage",
        "theseus",
        "--library",
        str(folder / f"library-{sharing}"),
    ]
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{space.parent}"}
    with subprocess.Popen(command, cwd=folder, env=environment) as search:
        # The guide and Ray's start are not the GPU's work for trials.
        while search.poll() is None and not list(storage.evaluations.glob("*.json")):
            time.sleep(0.2)
        started, before = time.monotonic(), len(list(storage.evaluations.glob("*.json")))
        with Watch() as watch:
            search.wait()
    if search.returncode:
        raise SystemExit(f"the search of {sharing} trials at once ended with {search.returncode}")
    seconds = time.monotonic() - started
    done = [o for o in storage.outcomes() if isinstance(o, Evaluation)]
    return {
        "at_once": sharing,
        "trials": len(done),
        "seconds": seconds,
        "evaluations_an_hour": 3600 * (len(done) - before) / seconds,
        "utilisation": watch.utilisation,
        "peak_memory_bytes": watch.peak_bytes,
        "front": sorted(m.evaluation.architecture.id for m in read_front(storage)),
        "values": {o.architecture.id: o.values() for o in done},
    }


def figures_of(cells: list[dict[str, Any]]) -> dict[str, float | int | None]:
    """What is reported; without cells, all of it without a value."""
    mixed = {c["at_once"]: c for c in cells if c["precision"] == "mixed"}
    plain = next((c for c in cells if c["precision"] == "float32"), None)
    alone = mixed.get(1)
    found: dict[str, float | int | None] = {}
    for sharing in SHARED:
        cell = mixed.get(sharing)
        for name in ("evaluations_an_hour", "utilisation", "peak_memory_bytes"):
            found[f"{name}_{sharing}"] = None if cell is None else cell[name]
        if sharing > 1:
            found[f"front_shared_with_1_{sharing}"] = _overlap(cell, alone)
    found["mixed_over_float32"] = None
    if alone is not None and plain is not None:
        rate = alone["evaluations_an_hour"] / plain["evaluations_an_hour"]
        found["mixed_over_float32"] = rate
    found["front_shared_with_float32"] = _overlap(alone, plain)
    return found


def _overlap(one: dict[str, Any] | None, other: dict[str, Any] | None) -> float | None:
    """Share of two fronts' members that are on both."""
    if one is None or other is None:
        return None
    fronts = set(one["front"]), set(other["front"])
    return len(fronts[0] & fronts[1]) / len(fronts[0] | fronts[1])


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--space", type=Path, default=ROOT / "search_spaces" / "fashion_resnet.py")
    parser.add_argument("--trials", type=int, default=24)
    given = parser.parse_args()
    cells: list[dict[str, Any]] = []
    if torch.cuda.is_available():
        space = given.space.resolve()
        text = space.read_text(encoding="utf-8")
        future = "from __future__ import annotations\n"
        plain = future + FLOAT32 + text.replace(future, "")
        for precision, sharing, code in (
            *(("mixed", sharing, text) for sharing in SHARED),
            ("float32", 1, plain),
        ):
            with tempfile.TemporaryDirectory() as name:
                cell = searched(code, space, Path(name), sharing, given.trials)
            cells.append({"precision": precision, **cell})
            print({key: value for key, value in cell.items() if key not in ("values", "front")})
    figures = figures_of(cells)
    why = "not measured: torch sees no GPU on this machine"
    notes = {name: why for name, value in figures.items() if value is None}
    print("\n".join(figure_table(figures, notes)))
    print(f"wrote {write_record('gpu', figures, cells, [0], notes, packages=('torch', 'ray'))}")


if __name__ == "__main__":
    main()

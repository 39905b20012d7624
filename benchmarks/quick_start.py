"""The quick start now and as it was before the library: seconds, and the front it ends with.

    python -m benchmarks.quick_start [--before COMMIT] [--seeds 3]

Runs `nas-theseus search search_spaces/digits.py --trials 12` of this checkout and of an older
commit in turn, each in an empty folder. Fronts are compared by the hypervolume of test accuracy and
log10 MACs, from the guide's MACs and ten points below the guide's accuracy on validation.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.record import write_record
from nas_theseus.estimate.pareto import hypervolume

ROOT = Path(__file__).resolve().parent.parent
BEFORE = "00b7104"  # the last commit without a library
LOSS = 0.1  # of accuracy, that still counts


def run(checkout: Path, seed: int) -> dict[str, Any]:
    """One quick start: wall seconds, the guide's values, the front's MACs and test accuracy."""
    project = tomllib.loads((checkout / "pyproject.toml").read_text())["project"]
    module, _, function = project["scripts"]["nas-theseus"].partition(":")
    with tempfile.TemporaryDirectory(prefix="quick-start-") as name:
        command = [
            sys.executable,
            "-c",
            f"from {module} import {function}; {function}()",
            "search",
            str(checkout / "search_spaces" / "digits.py"),
            "--name",
            "demo",
            "--trials",
            "12",
            "--seed",
            str(seed),
        ]
        began = time.perf_counter()
        subprocess.run(
            command,
            check=True,
            cwd=name,
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(checkout)},
        )
        seconds = time.perf_counter() - began
        front = Path(name) / "theseus" / "searches" / "demo" / "front" / "front.json"
        found = json.loads(front.read_text())
    points = [(member["macs"], member["test_accuracy"]) for member in found["front"]]
    return {"seconds": seconds, "guide": found["guide"], "front": sorted(points)}


def volume(cell: dict[str, Any]) -> float:
    """Hypervolume of a cell's front."""
    guide = cell["guide"]
    worst = (LOSS - guide["val_accuracy"], math.log10(guide["macs"]))
    return hypervolume([(-accuracy, math.log10(macs)) for macs, accuracy in cell["front"]], worst)


def main() -> None:
    """Run both, print and write results/quick_start.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--before", default=BEFORE, help="commit to compare with")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    cells = []
    with tempfile.TemporaryDirectory(prefix="quick-start-before-") as name:
        older = Path(name) / "checkout"
        subprocess.run(["git", "clone", "-q", str(ROOT), str(older)], check=True)
        subprocess.run(["git", "checkout", "-q", options.before], check=True, cwd=older)
        for seed in range(options.seeds):
            for which, checkout in (("before", older), ("now", ROOT)):
                cell = {"which": which, "seed": seed, **run(checkout, seed)}
                cells.append({**cell, "hypervolume": volume(cell)})
                print(
                    f"{which}, seed {seed}: {cell['seconds']:.0f} s, "
                    f"hypervolume {cells[-1]['hypervolume']:.4f}",
                    flush=True,
                )

    def average(which: str, what: str) -> float:
        return float(mean(cell[what] for cell in cells if cell["which"] == which))

    write_record(
        "quick_start",
        {
            "seconds_now": average("now", "seconds"),
            "seconds_now_over_before": average("now", "seconds") / average("before", "seconds"),
            "hypervolume_now_over_before": average("now", "hypervolume")
            / average("before", "hypervolume"),
        },
        cells,
        list(range(options.seeds)),
        {"before": f"commit {options.before}"},
    )


if __name__ == "__main__":
    main()

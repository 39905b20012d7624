"""What the driver costs a trial in long searches, and how busy it keeps many slots.

    python -m benchmarks.scale [--trials 100 1000 10000] [--slots 2 4 8 16 32 64] [--rounds 8]

Driver: one search of made-up worlds (benchmarks/sampler.py), proposed by NSGA-II, told and recorded
as in a real one (Optuna's journal, outbox, MLflow on SQLite), without Ray. At each length
`--measured` trials end as fast as they are proposed, MLflow being told beside (stream); of as many
others the parts are timed one by one: a proposal (ask), its result told (tell), the front with its
hypervolume (front), the records queued (queue) and MLflow told of them (deliver). A copy of each
length's journal is opened with the other samplers, which propose and are told as many.

Slots: Ray Tune over `RayExecutor.run`, on a Ray that is told of as many CPUs as there are slots;
a trial only waits, in a worker that imports no torch. Utilisation is waited time over slots and
wall time, from when every worker has begun its first trial, for which it waits until all are there
(ramp-up), to when the last trial starts.

Each cell is kept in results/scale.json when it ends, where the others stay; table and plot are in
docs/evidence/scaling-evidence.md. The shortest run with a figure for `theseus` is
`--trials 1000 --samplers theseus --slots`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from itertools import chain
from typing import Any

from benchmarks.record import RESULTS, commit
from benchmarks.scale_driver import measure_driver
from benchmarks.scale_report import SAMPLERS, key, report
from benchmarks.scale_slots import measure_slots


def main() -> None:
    """Measure what is asked for and write results, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="*", default=[100, 1_000, 10_000])
    parser.add_argument("--measured", type=int, default=50)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--slots", type=int, nargs="*", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=8)
    given = parser.parse_args()
    if min(given.trials, default=given.measured * 2) < 2 * given.measured:
        parser.error(f"--trials: at least {2 * given.measured}, twice what is --measured")
    cells: Iterator[dict[str, Any]] = (
        measure_slots(slots, given.seconds, given.rounds) for slots in given.slots
    )
    if given.trials:  # first, while nothing else has used memory
        cells = chain(measure_driver(given.trials, given.measured, given.samplers), cells)
    path = RESULTS / "scale.json"
    earlier = json.loads(path.read_text())["cells"] if path.exists() else []
    found = {key(cell): cell for cell in earlier}
    for cell in cells:
        print(cell, flush=True)
        found[key(cell)] = {**cell, "commit": commit()}
        report(list(found.values()))


if __name__ == "__main__":
    main()

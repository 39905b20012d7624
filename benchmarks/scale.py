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

Under load (each is run alone when it is asked for; `--trials` and `--slots` then add theirs):

- `--services`: the study in PostgreSQL, MLflow behind its server with PostgreSQL, both on loopback.
- `--beside N`: N searches, open at once in two processes, with one MLflow server and one library;
  what is lost or doubled, and how long queries of MLflow's pages take.
- `--front N`: a search whose N trials are all on the front.
- `--wide N`: proposals in a space of N parts with 30 blocks each.

They need the dependency group ``services``.

Each cell is kept in results/scale.json when it ends, where the others stay; table and plot are in
docs/evidence/scaling-evidence.md. The shortest run with a figure for `theseus` is
`--trials 1000 --samplers theseus --slots`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterator
from typing import Any

from benchmarks.record import RESULTS, commit
from benchmarks.scale_beside import measure_beside
from benchmarks.scale_driver import measure_driver
from benchmarks.scale_report import SAMPLERS, key, report
from benchmarks.scale_services import measure_services
from benchmarks.scale_slots import measure_slots
from benchmarks.scale_wide import measure_front, measure_wide


def main() -> None:
    """Measure what is asked for and write results, table and plot."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, nargs="*")
    parser.add_argument("--measured", type=int, default=50)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=list(SAMPLERS))
    parser.add_argument("--slots", type=int, nargs="*")
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=8)
    parser.add_argument("--services", type=int, nargs="+", default=[])
    parser.add_argument("--beside", type=int, default=0)
    parser.add_argument("--beside-trials", type=int, default=10)
    parser.add_argument("--front", type=int, default=0)
    parser.add_argument("--wide", type=int, default=0)
    given = parser.parse_args()
    load = given.services or given.beside or given.front or given.wide
    if given.trials is None:
        given.trials = [] if load else [100, 1_000, 10_000]
    if given.slots is None:
        given.slots = [] if load else [2, 4, 8, 16, 32, 64]
    if min([*given.trials, *given.services], default=given.measured * 2) < 2 * given.measured:
        parser.error(f"--trials: at least {2 * given.measured}, twice what is --measured")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that servers are stopped
    path = RESULTS / "scale.json"
    earlier = json.loads(path.read_text())["cells"] if path.exists() else []
    found = {key(cell): cell for cell in earlier}
    for cell in _cells(given):
        print(cell, flush=True)
        found[key(cell)] = {**cell, "commit": commit()}
        report(list(found.values()))


def _cells(given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What is asked for; the driver first, while nothing else has used memory."""
    if given.trials:
        yield from measure_driver(given.trials, given.measured, given.samplers)
    if given.services:
        yield from measure_services(given.services, given.measured)
    if given.wide:
        yield from measure_wide(given.wide, given.samplers)
    if given.front:
        yield from measure_front(given.front)
    if given.beside:
        yield from measure_beside(given.beside, given.beside_trials)
    for slots in given.slots:
        yield measure_slots(slots, given.seconds, given.rounds)


if __name__ == "__main__":
    main()

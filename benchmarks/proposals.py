"""What a proposal costs in a long study, without trials, trackers or executors.

    python -m benchmarks.proposals [--lengths 20 100 1000] [--samplers tpe theseus] [--proposals 20]

A study of a made-up world (`benchmarks.sampler`) is filled by NSGA-II to each length; each sampler
then continues on a copy of its journal. Figures are processor milliseconds of one proposal and of
one result given to the study, means without the first, which also computes what depends on the
space alone; and seconds to open the study.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.record import write_record
from benchmarks.sampler import SPACE, World
from nas_theseus.costs.table import CostTable
from nas_theseus.estimate.thompson import Proposer
from nas_theseus.services.optuna.study import Problem, Study, StudySettings, open_study
from nas_theseus.space.genome import Genome
from nas_theseus.space.load import load_space
from nas_theseus.values.outcomes import Evaluation
from nas_theseus.values.rung import rungs_of


class Bench:
    """Studies of one made-up world; results are known at once."""

    def __init__(self) -> None:
        self.space = load_space(SPACE)
        self.costs = CostTable(self.space)
        self.world = World(self.space, self.costs, 0)
        self.results: dict[str, Evaluation] = {}

    def study(self, journal: Path, sampler: str) -> Study:
        """Open the study in a journal."""
        space = self.space
        return open_study(
            StudySettings("one", journal, sampler, 0),
            Problem(
                Genome(space),
                space.goals,
                space.limits,
                self.costs.of,
                rungs_of(space.recipe, space.metric),
                Proposer(space, self.costs, self.world.reference),
            ),
            lambda architecture: self.results.get(architecture.id),
        )

    def trial(self, study: Study) -> tuple[float, float]:
        """One proposal and its result; processor seconds of each."""
        began = time.process_time()
        proposal = study.propose()
        proposed = time.process_time()
        if proposal is None:
            raise RuntimeError("the space is exhausted")
        one = proposal.architecture
        result = self.results[one.id] = self.world.told(one)
        told = time.process_time()
        study.report(proposal, result)
        return proposed - began, time.process_time() - told


def measure(bench: Bench, journal: Path, sampler: str, proposals: int) -> dict[str, Any]:
    """One sampler, continuing a study."""
    began = time.process_time()
    study = bench.study(journal, sampler)
    opened = time.process_time() - began
    length = len(bench.results)
    bench.trial(study)
    seconds = [bench.trial(study) for _ in range(proposals)]
    propose, report = (1e3 * sum(column) / proposals for column in zip(*seconds, strict=True))
    return {
        "sampler": sampler,
        "trials": length,
        "open_s": opened,
        "propose_ms": propose,
        "report_ms": report,
    }


def main() -> None:
    """Measure and write results/proposals.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--lengths", type=int, nargs="+", default=[20, 100, 1000])
    parser.add_argument("--samplers", nargs="+", default=["tpe", "theseus"])
    parser.add_argument("--proposals", type=int, default=20)
    given = parser.parse_args()
    cells = []
    bench = Bench()
    with tempfile.TemporaryDirectory() as name:
        journal = Path(name) / "study.journal"
        for length in sorted(given.lengths):
            study = bench.study(journal, "nsga2")
            while len(bench.results) < length:
                bench.trial(study)
            results = dict(bench.results)
            for sampler in given.samplers:
                copy = Path(name) / f"{sampler}-{length}.journal"
                shutil.copy(journal, copy)
                bench.results = dict(results)
                cells.append(measure(bench, copy, sampler, given.proposals))
                print(cells[-1], flush=True)
            bench.results = results
    figures = {
        f"{cell['sampler']}_{cell['trials']}_{figure}": cell[figure]
        for cell in cells
        for figure in ("propose_ms", "report_ms", "open_s")
    }
    notes = {
        "propose_ms": "processor milliseconds; about half of TPE's proposals at these "
        "lengths are repeated ones, each followed by a neighbour",
        "load": f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores at the end",
    }
    write_record("proposals", figures, cells, [0], notes, ("optuna",))


if __name__ == "__main__":
    main()

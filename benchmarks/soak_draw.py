"""What one cell of the soak is: a random search and random faults, drawn from seed and number."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from benchmarks.soak_spaces import SPACES

SAMPLERS = ("theseus", "nsga2", "nsga3", "tpe", "random")
# How a cell's driver is run, with its share of all cells: a child of this process that has
# everything imported (without Ray), the same as a command with a library loaded in front of it, a
# command with a Ray of its own, a command that joins a cluster of several nodes.
KINDS = {"forked": 78, "preloaded": 9, "ray": 11, "cluster": 2}


@dataclass(frozen=True)
class Setup:
    """A search of the soak and what it uses.

    Attributes:
        kind: of `KINDS`.
        library: ``none``, ``folder`` or ``store`` (S3-compatible).
        study: ``journal``, ``sqlite`` or ``postgresql``.
        tracker: ``lines`` (JSON lines), ``sqlite`` (MLflow on SQLite) or ``server`` (MLflow's
            server with PostgreSQL and artifacts in the S3-compatible store).
        disk: whether the storage is on a small disk of its own.
        new: whether MLflow's tables on SQLite are made during the search; others start with a copy.
        preload: ``clock``, ``slow`` (each flush and rename to the disk takes long), or empty.
    """

    kind: str
    space: str
    sampler: str
    trials: int
    search_seed: int
    rungs: bool
    parallel: int
    library: str
    study: str
    tracker: str
    disk: bool
    preload: str
    new: bool = False

    @property
    def same_front(self) -> bool:
        """Whether the front must equal that of an undisturbed search."""
        return self.parallel == 1

    @property
    def services(self) -> frozenset[str]:
        """Servers that the cell needs."""
        needed = set()
        if self.study == "postgresql":
            needed.add("database")
        if self.library == "store":
            needed.add("store")
        if self.tracker == "server":
            needed |= {"tracker", "tracker's database", "store"}
        return frozenset(needed)


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes:
        name: what happens.
        after: when, as a share of the seconds that an undisturbed search takes.
        seconds: how long it lasts, if it ends by itself.
        choice: a random number in [0, 1) for what else is to be chosen, such as a file.
    """

    name: str
    after: float
    seconds: float
    choice: float


def draw(seed: int, cell: int) -> tuple[Setup, list[Fault]]:
    """The search and the faults of a cell."""
    rng = Random(f"soak {seed} {cell}")
    setup = _setup(rng)
    return setup, _faults(rng, setup)


def _setup(rng: Random) -> Setup:
    kind = rng.choices([*KINDS], [*KINDS.values()])[0]
    served = rng.random() < (0.2 if kind == "forked" else 0.1)
    disk = kind == "forked" and rng.random() < 0.1
    with_rungs = rng.random() < 0.5
    return Setup(
        kind=kind,
        space=rng.choice([*SPACES]),
        sampler=rng.choice(SAMPLERS),
        trials=rng.choice((5, 8)),
        search_seed=rng.choice((0, 1)),
        rungs=with_rungs,
        parallel=rng.choice((1, 2)) if kind in ("ray", "cluster") else 1,
        library=rng.choices(("folder", "store", "none"), (6, 3 if served else 0, 2))[0],
        study=rng.choices(("journal", "sqlite", "postgresql"), (6, 2, 5 if served else 0))[0],
        tracker=rng.choices(("sqlite", "lines", "server"), (5, 3, 6 if served else 0))[0],
        disk=disk,
        preload=rng.choice(("clock", "slow")) if kind == "preloaded" else "",
        new=rng.random() < 0.25,
    )


def _faults(rng: Random, setup: Setup) -> list[Fault]:
    possible = {"kill driver": 10, "stop driver": 2, "second driver": 1, "damage a file": 3}
    if setup.kind in ("ray", "cluster"):
        possible |= {"kill driver": 3, "kill worker": 6, "stop worker": 2, "damage a file": 1}
    if setup.kind == "cluster":
        possible |= {"kill node": 6, "kill head": 2}
    if setup.disk:
        possible["fill disk"] = 6
    if setup.preload == "clock":
        possible["jump"] = 8
    for service in sorted(setup.services):
        possible |= {f"kill {service}": 2, f"stop {service}": 1}
        if service != "tracker's database":
            possible |= {f"reset {service}": 1, f"slow {service}": 1}
    counts = {"forked": (5, 10), "preloaded": (3, 6), "ray": (2, 5), "cluster": (3, 6)}
    found = []
    for _ in range(rng.randint(*counts[setup.kind])):
        name = rng.choices([*possible], [*possible.values()])[0]
        share = rng.uniform(0, 1.1 if rng.random() < 0.3 else 0.5)
        found.append(Fault(name, share, rng.uniform(0.2, 4.0), rng.random()))
    return found

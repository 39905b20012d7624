"""Look at what a search needs on this machine: packages, GPU, data, storage and services."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeAlias

from nas_theseus.errors import TheseusError
from nas_theseus.values.registers import CHECKS

State: TypeAlias = Literal["ok", "missing", "broken"]


@dataclass(frozen=True)
class Asked:
    """What a diagnosis is asked about.

    Attributes:
        storage: folder of guides, blocks, searches and results.
        study: Optuna storage URL. Default: a journal file in the storage.
        address: address of a Ray cluster. Default: Ray on this machine.
        start_ray: whether Ray is started, or the cluster joined, to see that it works; takes
            several seconds.
    """

    storage: Path = Path("theseus")
    study: str | None = None
    address: str | None = None
    start_ray: bool = False


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        subject: what it is about, such as "torch".
        state: ``ok``, ``missing`` or ``broken``.
        said: what was found.
        remedy: what to do; empty if nothing, or if `said` says it.
        needed: whether a search cannot run without it.
    """

    subject: str
    state: State
    said: str
    remedy: str = ""
    needed: bool = True

    @property
    def stops(self) -> bool:
        """Whether a search cannot run because of it."""
        return self.needed and self.state != "ok"


class Check(Protocol):
    """Looks at one thing; a member of the register of checks."""

    def __call__(self, asked: Asked) -> Iterable[Finding]:
        """What it finds; anything that it raises becomes a finding of its own."""


def diagnose(asked: Asked, checks: Iterable[str] | None = None) -> list[Finding]:
    """Run checks, and list what a search needs first.

    Args:
        checks: names of the checks. Default: all.

    Raises:
        UnknownNameError: there is no such check.
    """
    found: list[Finding] = []
    for name in CHECKS if checks is None else checks:
        check: Check = CHECKS[name]
        try:
            found += check(asked)
        except TheseusError as error:  # its message has the remedy
            found.append(Finding(name, "broken", " ".join(str(error).split())))
        except Exception as error:  # packages fail to be imported in many ways
            said = f"{type(error).__name__}: {error}"
            remedy = "if a package is broken, install nas-theseus in a new environment"
            found.append(Finding(name, "broken", " ".join(said.split())[:300], remedy))
    return sorted(found, key=lambda finding: not finding.needed)

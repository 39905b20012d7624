"""Registers: the members of each kind by name, so that adding a member means adding one file.

A register belongs to one folder, and each module of the folder is a member: `conversion/
similarities/cka_unbiased.py` is the similarity "cka-unbiased", and its attribute `MEMBER` is the
object that fulfils the kind's protocol. Names are known without importing any member, so help texts
and validation are quick. A space file adds its own members with `Register.add`. They are known to
that space only: `activate` chooses the space whose members are visible.
"""

from __future__ import annotations

import importlib
import pkgutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nas_theseus.errors import UnknownNameError

_PACKAGE = Path(__file__).parents[1]

# Each space file is a package with a name of its own, and its modules are modules of that package.
SPACE_PREFIX = "theseus_space_"
# Code through which a space's own code adds members, such as Recipe(similarity=Mine()).
_BETWEEN = ("nas_theseus", "pydantic")

_active: str | None = None


def activate(space: str | None) -> str | None:
    """Make the members of one space visible instead of those of the space that was active.

    Args:
        space: name of the space's package; None for no space.

    Returns:
        The space that was active.
    """
    global _active
    before, _active = _active, space
    return before


def active_space() -> str | None:
    """Name of the package of the space whose members are visible."""
    return _active


def _space_that_adds() -> str | None:
    """The space whose own code is running; None for code from elsewhere."""
    frame = sys._getframe(2)
    while frame is not None:
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top.startswith(SPACE_PREFIX):
            return top
        if top not in _BETWEEN:
            return None
        frame = frame.f_back  # type: ignore[assignment]
    return None


class Register:
    """The members of one kind by name.

    Args:
        kind: name of the kind in messages, such as "similarity".
        folder: folder of the members in the package, such as "conversion/similarities".
        hyphens: whether underscores of file names become hyphens in names. Names used in conditions
            such as ``val_mean_iou >= 0.5`` keep their underscores.
        options: whether a space may add the package's own members with other options under their
            own names, such as ``KVCacheBytes(context=4096)``.
    """

    def __init__(self, kind: str, folder: str, hyphens: bool = True, options: bool = False) -> None:
        self.kind, self.folder, self._options = kind, folder, options
        modules = pkgutil.iter_modules([str(_PACKAGE / folder)])
        package = f"nas_theseus.{folder.replace('/', '.')}"
        self._modules = {
            module.name.replace("_", "-") if hyphens else module.name: f"{package}.{module.name}"
            for module in modules
            if not module.name.startswith("_")
        }
        # Members from outside the package, by the space that added them; None for no space.
        self._added: dict[str | None, dict[str, Any]] = {}
        self._versions: dict[str, Any] = {}

    @property
    def shipped(self) -> tuple[str, ...]:
        """Names of the package's members."""
        return tuple(self._modules)

    @property
    def own(self) -> dict[str, Any]:
        """Members from outside the package that the active space knows."""
        return self.own_of(_active)

    def own_of(self, space: str | None) -> dict[str, Any]:
        """Members from outside the package that a space knows: its own, and those of no space."""
        return {**self._added.get(None, {}), **(self._added.get(space, {}) if space else {})}

    def __iter__(self) -> Iterator[str]:
        return iter({**self._modules, **self.own})

    def __contains__(self, name: object) -> bool:
        return name in self._modules or name in self.own or name in self._versions

    def __getitem__(self, name: str) -> Any:
        """A member by name, imported on first use.

        Args:
            name: a name, or ``<name>@<fingerprint>`` as returned by `add_version`.

        Raises:
            UnknownNameError: no member has this name; the message lists all names.
        """
        own = self.own
        if name in own:
            return own[name]
        if name in self._versions:
            return self._versions[name]
        if name not in self._modules:
            raise UnknownNameError(self._unknown(name))
        return importlib.import_module(self._modules[name]).MEMBER

    def add(self, name: str, member: Any) -> None:
        """Add a member from outside the package, replacing an earlier one of the same name.

        Only its own space knows a member that a space's code adds; others, such as those of an
        installed package or a notebook, are known everywhere in the process.

        Raises:
            UnknownNameError: the package itself has a member of this name, and this is not the same
                with other options, added by a space's code.
        """
        space = _space_that_adds()
        if name in self._modules:
            self._refuse_shipped(name, member, space)
        self._added.setdefault(space, {})[name] = member

    def _refuse_shipped(self, name: str, member: Any, space: str | None) -> None:
        module = self._modules[name]
        kind = type(importlib.import_module(module).MEMBER)
        if not (self._options and type(member) is kind and kind.__module__ == module):
            raise UnknownNameError(
                f"{self.kind} {name!r} is part of nas-theseus; choose another name for yours"
            )
        if space is None:
            # Every other space of this process would have the same options.
            raise UnknownNameError(
                f"{self.kind} {name!r} is part of nas-theseus, and its options belong to one "
                f"space; write {kind.__name__}(…) in a space file or a module beside it"
            )

    def add_version(self, name: str, fingerprint: str, member: Any) -> str:
        """Register a version of a user's own member, and return its name with the fingerprint.

        Several versions of one member stay available, since a file may be edited while a process
        runs.
        """
        version = f"{name}@{fingerprint}"
        self._versions[version] = member
        return version

    def _unknown(self, name: str) -> str:
        plain, _, fingerprint = name.partition("@")
        if not fingerprint:
            return f"unknown {self.kind} {name!r}; use {self.one_of}"
        loaded = [version for version in self._versions if version.startswith(f"{plain}@")]
        if not loaded:
            return (
                f"{self.kind} {name!r} is defined in a space file that has not been loaded here; "
                "load that file first (nas_theseus.space.load.load_space)"
            )
        return (
            f"{self.kind} {name!r} was edited since: {', '.join(loaded)} is loaded here; load the "
            "space file as it was before, or convert again"
        )

    @property
    def one_of(self) -> str:
        """The names as a list for help texts and messages: "cka, dmnn or regression"."""
        names = list(self)
        if len(names) < 2:
            return "".join(names)
        return f"{', '.join(names[:-1])} or {names[-1]}"


SIMILARITIES = Register("similarity", "conversion/similarities")
SCHEDULES = Register("schedule", "conversion/schedules")
COSTS = Register("cost", "costs/measures", hyphens=False, options=True)
METRICS = Register("metric", "tasks/metrics", hyphens=False)
SAMPLERS = Register("sampler", "services/optuna/samplers")
EXECUTORS = Register("executor", "services/executors")
TRACKERS = Register("tracker", "services/trackers")
FORMATS = Register("format", "export/formats")
FAMILIES = Register("family of models", "guide/families")
SOURCES = Register("source of networks", "guide/sources")
TEMPLATES = Register("template", "api/templates")
CHECKS = Register("check", "api/checks")
SECTIONS = Register("section of a report", "searches/sections")

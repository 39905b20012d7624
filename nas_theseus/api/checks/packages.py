"""Packages that every search needs: whether they are installed, in versions that fit together."""

from __future__ import annotations

import platform
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, requires, version

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from nas_theseus.api.doctor import Asked, Finding

_NAME = "nas-theseus"


def check(_: Asked) -> Iterator[Finding]:
    """Python and the package's own requirements, and what those require of each other."""
    try:
        own = metadata(_NAME)
    except PackageNotFoundError:
        yield Finding(_NAME, "missing", "it is not installed", "pip install nas-theseus")
        return
    here = platform.python_version()
    wanted = SpecifierSet(own["Requires-Python"] or "")
    if here not in wanted:
        yield Finding("Python", "broken", f"{here}, needs {wanted}", f"install Python {wanted}")
    needed = required(_NAME)
    lacking = [finding for each in needed if (finding := _lacking(each)) is not None]
    yield from lacking
    failed = {finding.subject for finding in lacking}
    fine = [f"{each.name} {version(each.name)}" for each in needed if each.name not in failed]
    if fine:
        yield Finding("packages", "ok", ", ".join([f"Python {here}", *fine]))
    direct: set[str] = {canonicalize_name(each.name) for each in needed}
    for each in needed:
        if each.name not in failed:
            yield from _disagreements(each.name, direct)


def required(package: str, extra: str = "") -> list[Requirement]:
    """What an installed package requires here: always, or for one of its extras only."""
    found = [Requirement(line) for line in requires(package) or ()]
    always = [one for one in found if one.marker is None or one.marker.evaluate({"extra": ""})]
    if not extra:
        return always
    with_extra = [one for one in found if one.marker and one.marker.evaluate({"extra": extra})]
    return [one for one in with_extra if one not in always]


def _lacking(requirement: Requirement) -> Finding | None:
    name, wanted = requirement.name, requirement.specifier
    remedy = f"pip install '{name}{wanted}'"
    try:
        installed = version(name)
    except PackageNotFoundError:
        return Finding(name, "missing", f"it is not installed, needs {wanted}", remedy)
    if wanted.contains(installed, prereleases=True):
        return None
    return Finding(name, "broken", f"{installed}, needs {wanted}", remedy)


def _disagreements(package: str, direct: set[str]) -> Iterator[Finding]:
    """Packages that another one wants in another version, such as torchvision's torch."""
    for one in required(package):
        try:
            installed = version(one.name)
        except PackageNotFoundError:
            continue  # left out on purpose by some builds
        if not one.specifier.contains(installed, prereleases=True):
            yield Finding(
                one.name,
                "broken",
                f"{installed}, but {package} {version(package)} needs {one.specifier}",
                f"pip install --upgrade {package} {one.name}",
                needed=canonicalize_name(one.name) in direct,
            )


MEMBER = check

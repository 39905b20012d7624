"""Networks that a search found as models of MLflow: logged, and registered."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeAlias

from nas_theseus.api.choosing import matching
from nas_theseus.errors import ServiceError, SpaceError, StorageError
from nas_theseus.export.member import read_member, write_member
from nas_theseus.export.packaged import package
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import front_rows
from nas_theseus.searches.records import Records
from nas_theseus.services.mlflow.models import Finding, Models, open_models
from nas_theseus.services.mlflow.registry import Registry
from nas_theseus.space.consent import runnable
from nas_theseus.space.sources import read_sources
from nas_theseus.values.outcomes import Evaluation, Failure

if TYPE_CHECKING:
    from mlflow.entities import LoggedModel
    from mlflow.entities.model_registry import ModelVersion

Kind: TypeAlias = Literal["program", "network"]
_ALIAS = re.compile(r"(?!(latest|v\d+)$)[\w-]{1,255}", re.IGNORECASE)
_LISTED = 12


@dataclass(frozen=True)
class Logged:
    """A network as a model of MLflow.

    Attributes:
        architecture: its id.
        kind: whether it holds a program, or the network's folder with its code.
        reason: why it holds no program; "" if it does.
        is_new: whether it was logged now.
    """

    architecture: str
    model: LoggedModel
    kind: Kind
    reason: str
    is_new: bool


@dataclass(frozen=True)
class Registered:
    """A network that is a model of MLflow.

    Attributes:
        architecture: its id.
        model, version: the registered model and its version.
        model_id: of the model that MLflow's Models tab lists.
        run_id: of the architecture's run.
        uri: what MLflow loads and serves.
        kind: whether it holds a program, or the network's folder with its code; None for a version
            that was there before.
        reason: why it holds no program; "" if it does.
        alias: the alias that names it now; None if none was given.
        state: how far the search is, in a sentence.
    """

    architecture: str
    model: str
    version: int
    model_id: str
    run_id: str
    uri: str
    kind: Kind | None
    reason: str
    alias: str | None
    state: str


def log_models(
    name: str, *, storage: str | Path = "theseus", trust_code: bool = False
) -> Iterator[Logged]:
    """Log each network on the front of a search as a model of MLflow.

    A network whose model is there is not logged again. `register` makes versions of these models.

    Args:
        name: of the search, finished or not.
        storage: folder of searches.
        trust_code: consent to run the search's copy of the space file.

    Yields:
        Each network when its model is there.

    Raises:
        StorageError: no such search, or no consent.
        ServiceError: MLflow does not answer or refuses.
        GuideError, SpaceError, DataError: a network cannot be rebuilt, or its data are missing.
    """
    records = Records.read(SearchFolder(Path(storage), name))
    models = open_models()
    for member in records.members:
        finding = _finding(records, member.evaluation)
        yield _logged(models, finding, records.folder, trust_code)


def register(
    name: str,
    architecture: str | None = None,
    *,
    where: str | None = None,
    alias: str | None = None,
    model_name: str | None = None,
    move: bool = False,
    storage: str | Path = "theseus",
    trust_code: bool = False,
) -> Registered:
    """Log a network as a model of MLflow, and register it.

    A network that is a version of the model already gets no other one; only its alias changes.

    Args:
        name: of the search, finished or not.
        architecture: id of one that it evaluated, or the beginning of its id.
        where: instead of an architecture, conditions on members of the front, such as
            ``macs < 2e6``. Of those that meet them the best by the first objective is taken.
        alias: such as ``champion``; ``models:/MODEL@champion`` then names this version.
        model_name: of the registered model. Default: the search's name.
        move: take the alias from another version that has it.
        storage: folder of searches.
        trust_code: consent to run the search's copy of the space file.

    Raises:
        StorageError: no such search, nothing in it to register, no member meets the conditions, or
            no consent.
        SpaceError: the conditions cannot be read, or there is both an architecture and conditions,
            or neither.
        ServiceError: MLflow does not answer or refuses, or another version has the alias.
        GuideError, SpaceError, DataError: the network cannot be rebuilt, or its data are missing.
    """
    if alias is not None and not _ALIAS.fullmatch(alias):
        raise ServiceError(
            f"{alias!r} cannot be an alias: use letters, digits, '-' and '_', such as 'champion'; "
            "MLflow keeps 'latest' and 'v1', 'v2', … for itself"
        )
    records = Records.read(SearchFolder(Path(storage), name))
    evaluation = _chosen(records, architecture, where)
    finding = _finding(records, evaluation)
    models = open_models()
    registry = Registry(models, model_name or name)
    version = registry.version_of(finding)
    if alias is not None and not move:
        _refuse_taken(registry, alias, version)
    kind: Kind | None = None
    reason = ""
    if version is None:
        logged = _logged(models, finding, records.folder, trust_code)
        version, kind, reason = registry.add(finding, logged.model), logged.kind, logged.reason
    if alias is not None:
        registry.give(alias, version)
    return Registered(
        evaluation.architecture.id,
        registry.name,
        int(version.version),
        version.tags["theseus.model"],
        str(version.run_id),
        f"models:/{registry.name}{f'@{alias}' if alias else f'/{version.version}'}",
        kind,
        reason,
        alias,
        records.state,
    )


def _chosen(records: Records, architecture: str | None, where: str | None) -> Evaluation:
    """The evaluation of an architecture, or of the front's best member with these conditions.

    Raises:
        SpaceError: both or neither are given, or the conditions cannot be read.
        StorageError: as `_evaluation`, or no member meets the conditions.
    """
    if architecture is not None and where is None:
        return _evaluation(records, architecture)
    name = records.folder.name
    if not records.evaluations:
        raise StorageError(f"search {name!r} has no network to register. {records.state}")
    if architecture is not None or where is None:
        given = "excludes --where" if where else "or --where CONDITIONS is needed"
        raise SpaceError(f"register {name}", [f"an ID {given}. The front:{_listed(records)}"])
    kept = {row["architecture"] for row in matching(front_rows(records.members), where)}
    members = [one.evaluation for one in records.members]
    found = [one for one in members if one.architecture.id in kept]
    if not found:
        raise StorageError(
            f"no member of the front of {name!r} has {where}. {records.state} On its front:"
            f"{_listed(records)}"
        )
    first = records.goals[0]
    sign = 1 if first.direction == "maximize" else -1
    return max(found, key=lambda one: sign * one.value(first.name))


def _evaluation(records: Records, text: str) -> Evaluation:
    """The evaluation of an architecture, by its id or the beginning of it.

    Raises:
        StorageError: none has this id, several have it, or the one that has it did not finish.
    """
    name = records.folder.name
    if not records.evaluations:
        raise StorageError(f"search {name!r} has no network to register. {records.state}")
    found = [one for one in records.outcomes if text and one.architecture.id.startswith(text)]
    if len(found) > 1:
        ids = ", ".join(one.architecture.id for one in found)
        raise StorageError(f"{len(found)} architectures of {name!r} begin with {text!r}: {ids}")
    one = found[0] if found else None
    if isinstance(one, Evaluation):
        return one
    if one is None:
        problem = f"search {name!r} has no architecture {text!r}"
    elif isinstance(one, Failure):
        problem = f"architecture {one.architecture.id} of {name!r} failed in step {one.stage}: "
        problem += one.message
    else:
        problem = f"architecture {one.architecture.id} of {name!r} was stopped at rung {one.rung}, "
        problem += "so it has no finished weights"
    raise StorageError(f"{problem}. {records.state} On its front:{_listed(records)}")


def _listed(records: Records) -> str:
    """Members of the front with their qualities and costs, a line each."""
    lines = [
        f"\n  {one.evaluation.architecture.id}  "
        + ", ".join(f"{goal.name} {one.evaluation.value(goal.name):,.4g}" for goal in records.goals)
        for one in records.members[:_LISTED]
    ]
    if more := len(records.members) - _LISTED:
        lines += (
            [f"\n  and {more} more: nas-theseus front {records.folder.name}"] if more > 0 else []
        )
    return "".join(lines)


def _finding(records: Records, evaluation: Evaluation) -> Finding:
    tests = {one.evaluation.name: one.test for one in records.members}
    test = tests.get(evaluation.name, {})
    return Finding(records.folder.name, records.begun.identity, evaluation, test)


def _refuse_taken(registry: Registry, alias: str, own: ModelVersion | None) -> None:
    """Refuse an alias that another version has, before anything is loaded.

    Raises:
        ServiceError: another version has it; the message says which.
    """
    holder = registry.holder(alias)
    if holder is None or (own is not None and own.version == holder.version):
        return
    held = holder.tags.get("theseus.architecture")
    network = f" (architecture {held}; {holder.description})" if held else ""
    raise ServiceError(
        f"alias {alias!r} of model {registry.name!r} names version {holder.version}{network}; add "
        "--move (move=True) to give it to this network, or choose another alias"
    )


def _logged(models: Models, finding: Finding, folder: SearchFolder, trust_code: bool) -> Logged:
    """The model of a network, logged unless it is there."""
    model = models.find(finding)
    is_new = model is None
    if model is None:
        sources = runnable(read_sources(folder.folder), folder.folder, trust_code=trust_code)
        with TemporaryDirectory(prefix="theseus-") as aside:
            place = Path(aside) / "network"
            weights = folder.weights_of(finding.evaluation.name)
            write_member(place, finding.evaluation, weights, sources)
            packed = package(read_member(place, trust_code=True), place, Path(aside))
            model = models.log(finding, packed)
    kind: Kind = "program" if model.tags["theseus.kind"] == "program" else "network"
    reason = model.tags.get("theseus.reason", "")
    return Logged(finding.evaluation.architecture.id, model, kind, reason, is_new)

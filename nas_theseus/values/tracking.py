"""Values that trackers and callbacks receive about a search, besides its outcomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

Parameter: TypeAlias = str | int | float | bool | None
# How a search ended, in MLflow's words: KILLED when an error or the user stopped it.
EndStatus: TypeAlias = Literal["FINISHED", "FAILED", "KILLED"]


@dataclass(frozen=True)
class TrackerContext:
    """The search that a tracker records, and where the tracker may keep files.

    Attributes:
        search: name of the search.
        identity: distinguishes searches of the same name in other folders or by other users.
        folder: the search's own folder, which exists; a tracker writes files of its own here.
        outbox: folder for records that a service has not received yet; of this search alone.
        runs_file: JSON map from architecture id to MLflow run id, written by the MLflow tracker.
    """

    search: str
    identity: str
    folder: Path
    outbox: Path
    runs_file: Path


@dataclass(frozen=True)
class FrontNow:
    """The front after one more outcome.

    Attributes:
        ids: architecture ids of the members.
        metrics: the search's own metrics, such as ``hypervolume``.
        step: number of outcomes so far.
    """

    ids: tuple[str, ...]
    metrics: Mapping[str, float]
    step: int


@dataclass(frozen=True)
class ResultFiles:
    """Files that a search wrote at its end.

    Attributes:
        folder: where the files are; they stay there.
        names: of the files in that folder.
        place: folder among a run's artifacts to store them under. Default: the top.
        architecture: id of the front member they belong to. Default: the search itself.
    """

    folder: Path
    names: tuple[str, ...]
    place: str | None = None
    architecture: str | None = None


@dataclass(frozen=True)
class Results:
    """What is known once the front has been tested.

    Attributes:
        ranks: by architecture id, of every evaluation; 0 is the front.
        test: test metrics of the front's members, by architecture id.
        files: pictures, tables and networks.
    """

    ranks: Mapping[str, int]
    test: Mapping[str, Mapping[str, float]]
    files: tuple[ResultFiles, ...] = ()

"""The result of a search, as Python users get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_theseus.conversion.target import Target
from nas_theseus.errors import StorageError
from nas_theseus.export.member import load
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_drawing import figure_of_front
from nas_theseus.searches.front_files import front_rows
from nas_theseus.searches.status import Status
from nas_theseus.values.outcomes import Failure, FrontMember

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class SearchResult:
    """What a search has found so far.

    Attributes:
        name: of the search.
        folder: of the search; ``folder/front`` has a folder for each member of the front.
        members: the front.
        guide: quality and costs of the guide.
        status: counts of trials and blocks, when the search ended.
        ended_because: why the search started no more trials.
        failures: candidates that could not be evaluated, with the reasons.
        undelivered: number of records that trackers have not received; the next launch sends them.
    """

    name: str
    folder: Path
    members: tuple[FrontMember, ...]
    guide: Mapping[str, float]
    status: Status
    ended_because: str
    undelivered: int
    failures: tuple[Failure, ...] = ()

    @property
    def front(self) -> list[dict[str, Any]]:
        """The front as plain rows, cheapest first."""
        return front_rows(self.members)

    def frame(self) -> pd.DataFrame:
        """The front as a table, one row per network."""
        import pandas as pd  # takes a second to import, and few need it

        return pd.DataFrame(self.front)

    def plot(self) -> Any:
        """The front and all other evaluations, as a plotly figure."""
        return figure_of_front(SearchFolder(self.folder.parents[1], self.name), self.members)

    def load(self, architecture: str) -> Target:
        """One network of the front, in eval mode on the CPU, by the id of its architecture.

        Raises:
            StorageError: the front has no such architecture, or its files are damaged.
        """
        known = [member.evaluation.architecture.id for member in self.members]
        if architecture not in known:
            raise StorageError(
                f"no architecture {architecture!r} on the front of {self.name!r}; it has "
                f"{', '.join(known)}"
            )
        # The space file has just been run, so its code is trusted already.
        return load(self.folder / "front" / architecture, trust_code=True)

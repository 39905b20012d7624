"""The picture of a search's front, from its folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_theseus.estimate.pareto import at_chance
from nas_theseus.pictures import of_search
from nas_theseus.searches.basis import Basis
from nas_theseus.searches.beginning import Beginning
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_files import read_outcomes
from nas_theseus.searches.repeats import spreads_of
from nas_theseus.values.outcomes import Evaluation, FrontMember


def draw_front(folder: SearchFolder, members: Sequence[FrontMember]) -> None:
    """Write ``front.html`` and ``front.png``; a search without evaluations has neither.

    Networks no better than chance are not drawn, so that the others are not squeezed together;
    the title counts them. Members that were repeated have error bars.

    Raises:
        StorageError: no such search, or a file cannot be written.
    """
    given = _given(folder, members)
    if given["evaluations"]:
        of_search.write_front(folder.front, **given)


def figure_of_front(folder: SearchFolder, members: Sequence[FrontMember]) -> Any:
    """The same as a plotly figure.

    Raises:
        StorageError: no such search.
    """
    return of_search.front_figure(**_given(folder, members))


def _given(folder: SearchFolder, members: Sequence[FrontMember]) -> dict[str, Any]:
    begun, basis = Beginning.read(folder), Basis.read(folder)
    done = [one for one in read_outcomes(folder) if isinstance(one, Evaluation)]
    low = {one.name for one in at_chance(done, begun.constraints)}
    return {
        "evaluations": [one for one in done if one.name not in low],
        "front": {member.evaluation.architecture.id for member in members},
        "objectives": begun.objectives,
        "title": folder.name + (f" ({len(low)} no better than chance not shown)" if low else ""),
        "guide": {} if basis is None else basis.guide,
        "spreads": spreads_of(folder, members),
    }

"""The end of a search: test quality of the front, its files and pictures, ranks of all."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nas_theseus.conversion.target import assemble
from nas_theseus.estimate.pareto import as_minimised, ranks
from nas_theseus.export.member import member_files, write_member
from nas_theseus.guide.weights import load_weights
from nas_theseus.pictures import of_conversion
from nas_theseus.searches.folder import SearchFolder
from nas_theseus.searches.front_drawing import draw_front
from nas_theseus.searches.front_files import read_scores, write_front
from nas_theseus.searches.ledger import Ledger
from nas_theseus.searches.report_page import try_report
from nas_theseus.space.search_space import SearchSpace
from nas_theseus.space.sources import Sources
from nas_theseus.storage.checked_json import write_checked
from nas_theseus.tasks.score import scores
from nas_theseus.values.outcomes import Evaluation, FrontMember
from nas_theseus.values.tracking import ResultFiles, Results

_PICTURES = ("front.html", "front.png", "front.json")


@dataclass(frozen=True)
class Finish:
    """Tests the front of a search, and writes its files.

    Attributes:
        space: of the search; the guide's trained weights are loaded into its guide.
        sources: of the space; they are saved with each network.
        guide: file of the guide's weights.
        guide_values: quality and costs of the guide.
        say: shows one line to the user.
    """

    space: SearchSpace
    sources: Sources
    folder: SearchFolder
    guide: Path
    guide_values: dict[str, float]
    say: Callable[[str], None]

    def write(self, ledger: Ledger, metrics: dict[str, float]) -> Results:
        """Test the front, write its files, and return what trackers record.

        Args:
            metrics: those of the search itself, such as its hypervolume.

        Raises:
            StorageError: weights are missing, or a file cannot be written.
        """
        front = self.folder.front
        load_weights(self.space.guide, self.guide)
        self.guide_values.update(
            _tested(
                front / "guide-test.json",
                lambda: scores(self.space.guide, self.space.task, "test"),
            )
        )
        members = []
        for number, evaluation in enumerate(ledger.members, 1):
            self.say(f"testing network {number} of {len(ledger.members)} on the front")
            members.append(self._member(evaluation))
        _remove_former(front, {member.evaluation.architecture.id for member in members})
        evaluations = ledger.evaluations
        draw_front(self.folder, members)
        found: dict[str, int] = {}
        if evaluations:
            points = as_minimised(evaluations, self.space.goals)
            names = (evaluation.architecture.id for evaluation in evaluations)
            found = dict(zip(names, ranks(points), strict=True))
        write_front(self.folder, tuple(members), self.guide_values, metrics)
        written = tuple(name for name in _PICTURES if (front / name).exists())
        files = [ResultFiles(front, written), *self._report()]
        for member in members:
            files += self._files(member.evaluation)
        tests = {member.evaluation.architecture.id: member.test for member in members}
        return Results(found, tests, tuple(files))

    def _report(self) -> list[ResultFiles]:
        """The report of the search."""
        path = try_report(self.folder, self.say)
        return [] if path is None else [ResultFiles(path.parent, (path.name,))]

    def _member(self, evaluation: Evaluation) -> FrontMember:
        folder = self.folder.front / evaluation.architecture.id
        weights = self.folder.weights_of(evaluation.name)
        write_member(folder, evaluation, weights, self.sources)

        def measure() -> dict[str, float]:
            target = assemble(self.space, evaluation.architecture, 0)
            load_weights(target, weights)
            return scores(target, self.space.task, "test")

        return FrontMember(evaluation, _tested(folder / "test.json", measure))

    def _files(self, evaluation: Evaluation) -> list[ResultFiles]:
        """A member's network and pictures."""
        name = evaluation.architecture.id
        folder = self.folder.front / name
        drawn = _draw(self.space, evaluation, folder)
        return [
            ResultFiles(folder, member_files(folder), place="network", architecture=name),
            *([ResultFiles(folder, drawn, architecture=name)] if drawn else []),
        ]


def _remove_former(front: Path, members: set[str]) -> None:
    """Remove the folders of architectures that are no longer on the front."""
    for folder in front.iterdir():
        if folder.is_dir() and folder.name not in members:
            shutil.rmtree(folder)


def _draw(space: SearchSpace, evaluation: Evaluation, folder: Path) -> tuple[str, ...]:
    """Draw pictures of a member that was aligned; returns their file names."""
    if not evaluation.similarities:
        return ()
    drawn = {
        of_conversion.SIMILARITY_FILE: of_conversion.similarity_picture(evaluation),
        of_conversion.CHAIN_FILE: of_conversion.chain_picture(space, evaluation.architecture),
    }
    for name, figure in drawn.items():
        of_conversion.write_picture(figure, folder / name)
    return tuple(drawn)


def _tested(path: Path, measure: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Test scores by ``test_`` and their name, measured once and saved."""
    if (saved := read_scores(path)) is not None:
        return saved
    found = {f"test_{name}": float(value) for name, value in measure().items()}
    write_checked(path, found)
    return found

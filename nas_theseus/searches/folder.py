"""The folders and files of a search under `--storage`; reads and writes its results."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from nas_theseus.costs.block_measurements import TABLE_FILE
from nas_theseus.errors import StorageError
from nas_theseus.storage.checked_json import read_checked, write_checked
from nas_theseus.storage.json_files import MALFORMED, move_damaged, read_json
from nas_theseus.storage.whole_files import DAY_S, make_folder, remove_leftovers
from nas_theseus.values.ids import SEARCH_NAME
from nas_theseus.values.outcomes import BlockOutcome, Evaluation, Failure, Outcome, Stopped

# A complete result takes precedence over the results of earlier attempts.
_SUFFIXES = ((Evaluation, ".json"), (Stopped, ".stopped.json"), (Failure, ".failed.json"))


@dataclass(frozen=True)
class SearchFolder:
    """The folder layout of one search inside a storage folder.

    Raises:
        StorageError: the name is not allowed for a search; it might lead out of the folder.

    ::

        <root>/guides/<key>.safetensors           trained guides, shared by all searches
        <root>/guides/<key>.<n>.checkpoint        a guide in training; removed when it is trained
        <root>/guide_work/                        activations and logits of guides, shared too
        <root>/library/                           converted blocks, shared by all searches
        <root>/block_measurements.jsonl           costs measured on blocks, by place; shared too
        <root>/searches/<name>/space.py           copy of the space file
        <root>/searches/<name>/sources/           copies of the modules that it imports from its
                                                  folder; sources.json lists them
        <root>/searches/<name>/settings.json      seed and sampler, fixed when the search began
        <root>/searches/<name>/block_measurements.json  measured costs of blocks in this search
        <root>/searches/<name>/basis.json         the guide's values, and the rungs
        <root>/searches/<name>/chance.json        random architectures with predicted quality
        <root>/searches/<name>/energy.json        energy of the driver's machine, if it was read
        <root>/searches/<name>/study.journal      Optuna's study: all proposals
        <root>/searches/<name>/evaluations/       one JSON file per result: the source of truth
        <root>/searches/<name>/blocks/            one JSON file per block, converted or failed
        <root>/searches/<name>/weights/           safetensors of each evaluated architecture
        <root>/searches/<name>/outbox/            records that MLflow has not received yet
        <root>/searches/<name>/front/             front.json, .html, .png; one folder per member
        <root>/searches/<name>/report.html        what `nas-theseus report` writes
        <root>/searches/<name>/log/               Ray's and the driver's messages
    """

    root: Path
    name: str

    def __post_init__(self) -> None:
        if not SEARCH_NAME.fullmatch(self.name):
            raise StorageError(
                f"{self.name!r} cannot be a search's name: names have up to 100 letters, digits, "
                "'.', '_' and '-', and begin with a letter or digit"
            )

    @property
    def folder(self) -> Path:
        return self.root / "searches" / self.name

    @property
    def guides(self) -> Path:
        return self.root / "guides"

    @property
    def guide_work(self) -> Path:
        return self.root / "guide_work"

    @property
    def library(self) -> Path:
        return self.root / "library"

    @property
    def block_table(self) -> Path:
        return self.root / TABLE_FILE

    @property
    def block_measurements(self) -> Path:
        return self.folder / "block_measurements.json"

    @property
    def space_file(self) -> Path:
        return self.folder / "space.py"

    @property
    def settings_file(self) -> Path:
        return self.folder / "settings.json"

    @property
    def basis_file(self) -> Path:
        return self.folder / "basis.json"

    @property
    def chance_file(self) -> Path:
        return self.folder / "chance.json"

    @property
    def energy_file(self) -> Path:
        return self.folder / "energy.json"

    @property
    def report_file(self) -> Path:
        return self.folder / "report.html"

    @property
    def journal(self) -> Path:
        return self.folder / "study.journal"

    @property
    def evaluations(self) -> Path:
        return self.folder / "evaluations"

    @property
    def blocks(self) -> Path:
        return self.folder / "blocks"

    @property
    def weights(self) -> Path:
        return self.folder / "weights"

    @property
    def outbox(self) -> Path:
        return self.folder / "outbox"

    @property
    def runs_file(self) -> Path:
        return self.folder / "runs.json"

    @property
    def front(self) -> Path:
        return self.folder / "front"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def lock_file(self) -> Path:
        return self.folder / "driver.lock"

    def create(self) -> None:
        """Make the folders.

        Raises:
            StorageError: the storage cannot be written.
        """
        for folder in (
            self.guides,
            self.evaluations,
            self.blocks,
            self.weights,
            self.outbox,
            self.log,
        ):
            make_folder(folder, "--storage")

    def remove_leftovers(self) -> None:
        """Remove temporary files of writers that were killed; the caller holds the search's lock.

        What other processes may be writing, in folders that searches share and by other commands,
        is removed after a day.
        """
        for own in (self.evaluations, self.blocks, self.weights, self.outbox, self.front):
            remove_leftovers(own)
        for shared in (self.folder, self.guides, self.guide_work):
            remove_leftovers(shared, DAY_S)

    def run_ids(self) -> dict[str, str]:
        """MLflow's run ids by architecture, as far as they are known."""
        try:
            found = read_json(self.runs_file)
            return {str(name): str(run) for name, run in found.items()}
        except (OSError, *MALFORMED):
            return {}

    def weights_of(self, outcome_name: str) -> Path:
        return self.weights / f"{outcome_name}.safetensors"

    def write_outcome(self, outcome: Outcome) -> Path:
        """Save a result: ``.json``, a stopped one ``.stopped.json``, a failure ``.failed.json``.

        Raises:
            StorageError: it cannot be written.
        """
        path = self._file_of(outcome)
        write_checked(path, outcome.to_json())
        return path

    def saved_at(self, outcome: Outcome | BlockOutcome) -> float:
        """When a result was saved, in seconds since 1970, by its file's time stamp; 0 without one.

        Copies of the folder without time stamps have lost it.
        """
        if isinstance(outcome, BlockOutcome):
            path = self.blocks / f"{outcome.block}.json"
        else:
            path = self._file_of(outcome)
        try:
            return path.stat().st_mtime
        except OSError:
            return 0.0

    def _file_of(self, outcome: Outcome) -> Path:
        suffix = dict[type, str](_SUFFIXES)[type(outcome)]
        return self.evaluations / f"{outcome.name}{suffix}"

    def read_outcome(self, name: str) -> Outcome | None:
        """The result of one architecture, recipe and seed; None if there is none (yet).

        A damaged file is renamed to ``.damaged``, so that the trial runs again.
        """
        for kind, suffix in _SUFFIXES:
            path = self.evaluations / f"{name}{suffix}"
            try:
                found: Outcome = kind.from_json(read_checked(path))
                if found.name != name:
                    raise ValueError(f"it is the result of {found.name}")
                return found
            except FileNotFoundError:
                continue
            except MALFORMED:
                move_damaged(path)
        return None

    def outcomes(self) -> Iterator[Outcome]:
        """All results, in order of their names."""
        names = {path.name.partition(".")[0] for path in self.evaluations.glob("*.json")}
        for name in sorted(names):
            outcome = self.read_outcome(name)
            if outcome is not None:
                yield outcome

    def write_block(self, outcome: BlockOutcome) -> None:
        """Save the outcome of a block's conversion."""
        write_checked(self.blocks / f"{outcome.block}.json", asdict(outcome))

    def read_block(self, block: str) -> BlockOutcome | None:
        """The outcome of a block's conversion in this search; None if there is none (yet).

        A damaged file is renamed to ``.damaged``, and no longer counted.
        """
        path = self.blocks / f"{block}.json"
        try:
            return BlockOutcome.from_json(read_checked(path))
        except FileNotFoundError:
            return None
        except MALFORMED:
            move_damaged(path)
            return None

    def block_outcomes(self) -> Iterator[BlockOutcome]:
        """Outcomes of all block conversions of this search, in order of the blocks' ids."""
        for path in sorted(self.blocks.glob("*.json")):
            outcome = self.read_block(path.stem)
            if outcome is not None:
                yield outcome


def searches(root: Path) -> list[str]:
    """Names of the searches in a storage folder."""
    folder = root / "searches"
    found = folder.iterdir() if folder.is_dir() else ()
    return sorted(p.name for p in found if p.is_dir() and SEARCH_NAME.fullmatch(p.name))

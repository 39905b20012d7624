"""Optuna's journal in one file: entries that belong together are written at once, or not at all."""

from __future__ import annotations

import copy
import json
import os
import zlib
from collections.abc import Container, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import RLock
from typing import Any

from filelock import FileLock
from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState

from nas_theseus.errors import ServiceError
from nas_theseus.services.optuna.causes import damaged
from nas_theseus.services.optuna.private import hold_genes_once

_CHECKSUM = b',"crc32":"'


def open_journal(path: Path) -> Journal:
    """Open a journal, or make it; a last line that a crash left incomplete is moved aside.

    Raises:
        ServiceError: a line is damaged.
        OSError: the file cannot be read or written.
    """
    _mend_torn_line(path)
    path.touch()
    file = JournalFile(path)
    try:
        return Journal(file)
    except ServiceError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, AssertionError) as error:
        # Optuna reads entries one by one, so the last one that it read is the damaged one.
        why = f"Optuna cannot read this entry ({type(error).__name__}: {error})"
        raise damaged(path, file.lines_read, why) from error


@dataclass
class _Trials:
    """The trials of one study as they were last read, with their ids; only `open` ones change.

    Attributes:
        genes: distributions that finished trials share, by name.
        values: values that they share, by type and value.
    """

    trials: list[FrozenTrial] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    open: list[int] = field(default_factory=list)
    genes: dict[str, BaseDistribution] = field(default_factory=dict)
    values: dict[tuple[type, Any], Any] = field(default_factory=dict)

    def share(self, trial: FrozenTrial) -> None:
        """Let a finished trial have names, values and distributions in common with the others.

        Optuna makes them anew for each trial: with 54 genes 50 kB, nine tenths of what it takes.
        """
        genes = trial.distributions
        if not all(isinstance(gene, CategoricalDistribution) for gene in genes.values()):
            return
        if self.genes.keys() != genes.keys():
            self.genes = genes if len(genes) > len(self.genes) else self.genes
            return
        # In one study, Optuna refuses other choices for a name that it has.
        trial.distributions = self.genes
        own = trial.params
        trial.params = {
            name: self.values.setdefault((type(own[name]), own[name]), own[name])
            for name in self.genes
        }
        hold_genes_once(trial)


class Journal(JournalStorage):
    """Optuna's journal storage over a `JournalFile`; made by `open_journal`."""

    def __init__(self, file: JournalFile) -> None:
        self._file = file
        self._seen: dict[int, _Trials] = {}
        self._seen_lock = RLock()
        super().__init__(file)

    def __getstate__(self) -> dict[Any, Any]:
        state = super().__getstate__()
        del state["_seen"], state["_seen_lock"]
        return state

    def __setstate__(self, state: dict[Any, Any]) -> None:
        self._seen, self._seen_lock = {}, RLock()
        super().__setstate__(state)

    def together(self) -> AbstractContextManager[None]:
        """Everything written inside goes to disk at once, on leaving; see `JournalFile`."""
        return self._file.together()

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As in Optuna, which looks up every trial at each call: 2 ms at 2,000 trials."""
        with self._seen_lock:
            self.get_study_name_from_id(study_id)  # raises where there is no such study
            seen = self._seen.setdefault(study_id, _Trials())
            self._refresh(study_id, seen)
            found = seen.trials
            if states is not None:
                finished = any(state in states for state in TrialState if state.is_finished())
                found = found if finished else [found[number] for number in seen.open]
                found = [trial for trial in found if trial.state in states]
            return copy.deepcopy(found) if deepcopy else found.copy()

    def _refresh(self, study_id: int, seen: _Trials) -> None:
        """Read the trials that are new or were open; a finished one cannot change."""
        with suppress(KeyError):  # there is no trial of the next number
            while True:
                number = len(seen.ids)
                seen.ids.append(self.get_trial_id_from_study_id_trial_number(study_id, number))
        new = range(len(seen.trials), len(seen.ids))
        seen.trials += [self.get_trial(seen.ids[number]) for number in new]
        for number in seen.open:
            seen.trials[number] = self.get_trial(seen.ids[number])
        still = [*seen.open, *new]
        seen.open = []
        for number in still:
            if seen.trials[number].state.is_finished():
                seen.share(seen.trials[number])
            else:
                seen.open.append(number)


class JournalFile(BaseJournalBackend):
    """One JSON object a line, flushed to the disk; its lock is the kernel's.

    Optuna's own file writes and flushes each gene of a proposal by itself, 60 times for one trial.
    Its lock is a link on the disk: a driver that is killed while it writes leaves the link behind,
    and the next driver waits for it, for ever where the journal's path is relative (seen with
    Optuna 5.0). The format is Optuna's, so its `JournalFileBackend` reads it.

    Args:
        path: the file, which exists.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".flock"))
        self._held: list[dict[str, Any]] | None = None
        self._held_lines: list[str] = []
        self._all_read = False
        self._bytes = 0
        self.lines_read = 0

    def __reduce__(self) -> tuple[type[JournalFile], tuple[Path]]:
        return JournalFile, (self._path,)

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Entries from a number on: those in the file, then those not written yet.

        Raises:
            ServiceError: a line is damaged.
        """
        if log_number_from < self.lines_read:
            self._bytes = self.lines_read = 0
            self._all_read = False
        if not self._all_read and self._path.stat().st_size > self._bytes:
            with self._path.open("rb") as file:
                file.seek(self._bytes)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # another process is writing it
                    # Counted before it is yielded, since the reader may stop at any entry.
                    self._bytes += len(line)
                    self.lines_read += 1
                    if self.lines_read > log_number_from:
                        yield self._entry(line)
        if self._held is not None:
            self._all_read = True  # nobody else writes before the lock is released
            yield from self._held[log_number_from - self.lines_read :]

    def _entry(self, line: bytes) -> dict[str, Any]:
        text, mark, checksum = line.rpartition(_CHECKSUM)
        if mark and checksum != _checksum(text):
            raise damaged(self._path, self.lines_read, "its checksum does not match")
        try:
            # With values that are no numbers, as Optuna writes them.
            entry = json.loads(text + b"}" if mark else line)
        except (ValueError, RecursionError) as error:
            raise damaged(self._path, self.lines_read, f"it is not JSON ({error})") from error
        if not isinstance(entry, dict) or not {"op_code", "worker_id"} <= entry.keys():
            raise damaged(self._path, self.lines_read, "it is no entry of Optuna's journal")
        return entry

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Add entries; inside `together` they are written on leaving."""
        if self._held is not None:
            lines = list(map(_line, logs))
            self._held_lines += lines
            # As they will be read: in JSON, Optuna's enumerations are numbers.
            self._held += map(json.loads, lines)
        else:
            with self._lock:
                self._append(map(_line, logs))

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write everything appended inside at once, on leaving; a kill before leaves none of it."""
        if self._held is not None:
            yield
            return
        with self._lock:  # held throughout, so that other processes cannot write in between
            self._held, self._held_lines = [], []
            try:
                yield
            finally:
                held, self._held = self._held_lines, None
                self._held_lines, self._all_read = [], False
                if held:
                    written = self._append(held)
                    self._bytes += written
                    self.lines_read += len(held)

    def _append(self, lines: Iterable[str]) -> int:
        data = "".join(lines).encode()
        with self._path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        return len(data)


def _line(log: dict[str, Any]) -> str:
    """An entry as a line, with a checksum as its last value, which Optuna passes over."""
    text = json.dumps(log, separators=(",", ":")).encode()[:-1]
    return (text + _CHECKSUM + _checksum(text)).decode()


def _checksum(text: bytes) -> bytes:
    return f'{zlib.crc32(text):08x}"}}\n'.encode()


def _mend_torn_line(journal: Path) -> None:
    """Cut off a last line that a crash left incomplete, so that nothing is appended to it."""
    if not journal.exists():
        return
    data = journal.read_bytes()
    if data and not data.endswith(b"\n"):
        whole = data[: data.rfind(b"\n") + 1]
        journal.with_suffix(".torn").write_bytes(data[len(whole) :])
        with journal.open("r+b") as file:
            file.truncate(len(whole))

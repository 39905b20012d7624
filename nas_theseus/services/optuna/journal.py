"""Optuna's journal in one file: what belongs together is written at once, or not at all.

And what has ended is read once.
"""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from optuna.storages import JournalStorage
from optuna.storages.journal import BaseJournalBackend
from optuna.trial import FrozenTrial, TrialState


class Journal(JournalStorage):
    """Optuna's journal storage over a `JournalFile`."""

    def __init__(self, path: Path) -> None:
        self._file = JournalFile(path)
        self._trials: dict[int, _Trials] = {}
        super().__init__(self._file)

    def together(self) -> AbstractContextManager[None]:
        """All that is written inside goes to the disk as one, on leaving; see `JournalFile`."""
        return self._file.together()

    def get_all_trials(
        self,
        study_id: int,
        deepcopy: bool = True,
        states: Container[TrialState] | None = None,
    ) -> list[FrozenTrial]:
        """As Optuna's, which looks each trial up each time: most of a proposal in a long study."""
        with self._thread_lock:
            self._sync_with_backend()
            self._replay_result.get_study(study_id)  # raises where there is none
            found = self._trials.setdefault(study_id, _Trials()).of(
                self._replay_result._study_id_to_trial_ids[study_id],
                self._replay_result._trials,
                states,
            )
            return copy.deepcopy(found) if deepcopy else found


class _Trials:
    """A study's trials as they were read last; of those only the open ones can change."""

    def __init__(self) -> None:
        self._trials: list[FrozenTrial] = []
        self._open: list[int] = []

    def of(
        self,
        ids: Sequence[int],
        now: Mapping[int, FrozenTrial],
        states: Container[TrialState] | None,
    ) -> list[FrozenTrial]:
        new = range(len(self._trials), len(ids))
        self._trials += [now[ids[i]] for i in new]
        self._open += new
        for i in self._open:
            self._trials[i] = now[ids[i]]
        self._open = [i for i in self._open if not self._trials[i].state.is_finished()]
        if states is None:
            return self._trials.copy()
        ended = any(state in states for state in TrialState if state.is_finished())
        trials = self._trials if ended else [self._trials[i] for i in self._open]
        return [trial for trial in trials if trial.state in states]


class JournalFile(BaseJournalBackend):
    """One JSON a line, flushed to the disk; its lock is the kernel's.

    Optuna's own file writes and flushes each gene of a proposal by itself, 60 times for one trial,
    and its lock is a link on the disk: a driver that is killed while it writes leaves it behind,
    and the next one waits for it (for ever where the journal's path is relative: seen with Optuna
    5.0). The format is Optuna's, so its `JournalFileBackend` reads it.
    """

    def __init__(self, path: Path) -> None:
        _mend_torn_line(path)
        path.touch()
        self._path = path
        self._lock = FileLock(path.with_name(path.name + ".flock"))
        self._held: list[dict[str, Any]] | None = None
        self._bytes = self._lines = 0

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """Entries from a number on: those of the file, then those that wait to be written."""
        if log_number_from < self._lines:
            self._bytes = self._lines = 0
        if self._path.stat().st_size > self._bytes:
            with self._path.open("rb") as file:
                file.seek(self._bytes)
                for line in file:
                    if not line.endswith(b"\n"):
                        break  # another process writes it just now
                    # Counted before it is handed out: whoever reads may stop at any entry.
                    self._bytes += len(line)
                    self._lines += 1
                    if self._lines > log_number_from:
                        yield json.loads(line)
        if self._held is not None:
            yield from self._held[log_number_from - self._lines :]

    def append_logs(self, logs: Iterable[dict[str, Any]]) -> None:
        """Add entries; inside `together` they wait."""
        if self._held is not None:
            # As they will be read: Optuna's enumerations are numbers in JSON.
            self._held += json.loads(json.dumps(list(logs)))
        else:
            with self._lock:
                self._append(logs)

    @contextmanager
    def together(self) -> Iterator[None]:
        """Write what is appended inside as one, on leaving; a kill before leaves nothing of it."""
        if self._held is not None:
            yield
            return
        with self._lock:  # held throughout, so that nobody else's entries get between
            self._held = []
            try:
                yield
            finally:
                held, self._held = self._held, None
                if held:
                    written = self._append(held)
                    self._bytes += written
                    self._lines += len(held)

    def _append(self, logs: Iterable[dict[str, Any]]) -> int:
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        with self._path.open("ab") as file:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        return len(lines)


def _mend_torn_line(journal: Path) -> None:
    """Cut a last line that a crash left half written, so that nothing is appended to it."""
    if not journal.exists():
        return
    data = journal.read_bytes()
    if data and not data.endswith(b"\n"):
        whole = data[: data.rfind(b"\n") + 1]
        journal.with_suffix(".torn").write_bytes(data[len(whole) :])
        with journal.open("r+b") as file:
            file.truncate(len(whole))

"""The tracker of MLflow: an outbox of records, and one thread that writes them to MLflow.

The search only puts records into the outbox (a folder of small files). The writer thread applies
them in order and deletes each one afterwards. Only fronts wait: for at most two seconds, so that
those of several trials are one call. Anything but a trial's outcome sends them first, so does the
search's end. A kill in between applies a record again, so applying is idempotent: runs are found by
their tags, and metric points carry the record's time, which MLflow's SQL stores use to drop a point
that they have.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock

from nas_theseus.errors import ServiceError, StorageError
from nas_theseus.searches.trackers import outcome_kind
from nas_theseus.services.mlflow.connection import (
    EXPERIMENT,
    check_version,
    connect,
    experiment_name,
    find_experiment,
    no_answer,
    probe,
    quieten,
)
from nas_theseus.services.mlflow.outbox import Outbox
from nas_theseus.services.mlflow.search_runs import Projection, RecordError
from nas_theseus.services.mlflow.system_metrics import SystemMetrics
from nas_theseus.storage.json_files import MALFORMED, read_json
from nas_theseus.storage.redaction import scrub
from nas_theseus.values.outcomes import Outcome
from nas_theseus.values.tracking import EndStatus, FrontNow, Parameter, Results

_log = logging.getLogger(__name__)

# A fresh SQLite or SQL database is migrated on first use, which takes seconds; a server is not.
CONNECT_TIMEOUT_S = {"http": 10.0, "https": 10.0}
CONNECT_TIMEOUT_OTHER_S = 120.0
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
DOUBTFUL_ATTEMPTS = 8
# At most so many fronts are sent together, and none waits longer for others.
TOGETHER, FRONTS_WAIT_S = 50, 2.0
_OUTCOMES = ("evaluation", "stopped", "failure")
RUNS_FILE_S = 1.0
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}


@dataclass
class _Batch:
    """One record, or fronts that are sent together; oldest first."""

    paths: list[Path]
    held: bool

    @property
    def last(self) -> Path:
        return self.paths[-1]


@dataclass
class _Progress:
    """How the delivery goes.

    Attributes:
        attempts: of the batch at hand.
        delay_s: how long to wait before the next attempt.
        alone: how many of the next records are sent alone, to find the one that is refused.
        due_s: when the file of run ids is written next, on the monotonic clock.
        fronts_due_s: when the fronts that are held are sent, on the same clock.
    """

    attempts: int = 0
    delay_s: float = field(default_factory=lambda: FIRST_RETRY_S)
    alone: int = 0
    due_s: float = 0.0
    fronts_due_s: float = 0.0

    def delivered(self) -> None:
        self.attempts, self.delay_s, self.alone = 0, FIRST_RETRY_S, max(0, self.alone - 1)


class MlflowTracker:
    """Queues what a search does; one thread writes it to MLflow.

    Args:
        search: name of the search: the parent run's name and the tag ``theseus.search``.
        identity: tells searches of one name apart (other folders, other users on one server): the
            tag ``theseus.identity``; the name when None.
        outbox: folder of records not yet delivered; of this search alone.
        runs_file: JSON map from architecture (and ``parent``) to MLflow run id, kept up to date.
        experiment: used unless MLFLOW_EXPERIMENT_NAME is set; made if it is missing.
        tracking_uri: MLflow's own choice (MLFLOW_TRACKING_URI or its default) when None.

    Raises:
        ValueError: the name has a quote, which MLflow's queries cannot hold.
    """

    def __init__(
        self,
        search: str,
        outbox: Path,
        runs_file: Path,
        *,
        identity: str | None = None,
        experiment: str = EXPERIMENT,
        tracking_uri: str | None = None,
    ) -> None:
        if not search or set(search) & set("'\"`"):
            raise ValueError(f"a search's name has no quotes and is not empty; given {search!r}")
        self._search = search
        self._identity = identity or search
        self._outbox = Outbox(outbox)
        self._runs_file = runs_file
        self._experiment = experiment_name(experiment)
        self._given_uri = tracking_uri
        self._uri = ""
        self._changed = threading.Condition()
        self._waiting: deque[Path] = deque()
        self._held: list[Path] = []  # fronts in front of those that wait, to be sent together
        self._recorded: set[str] | None = None
        self._stop = self._finishing = self._connected = False
        self._connect_error: Exception | None = None
        self._thread: threading.Thread | None = None
        self._read_outbox()

    @property
    def pending(self) -> int:
        """Records in the outbox that MLflow does not have yet."""
        with self._changed:
            return len(self._held) + len(self._waiting)

    @property
    def refused(self) -> int:
        """Records set aside because MLflow refuses them; each has its reason beside it."""
        return self._outbox.refused

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        """Check that MLflow answers, then open the search's run and deliver what waits.

        Raises:
            ServiceError: MLflow does not answer within seconds, refuses, has another major version,
                cannot write artifacts, or another process delivers this outbox.
            StorageError: the outbox cannot be read or written.
        """
        if self._thread is not None and self._thread.is_alive():
            raise ServiceError(f"tracking of search {self._search!r} is already running")
        self._uri = self._given_uri or mlflow.get_tracking_uri()
        quieten()
        # With a server, MLflow would ask for each run that ends, and print its address.
        os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
        try:
            probe(self._uri)
        except (OSError, ValueError) as error:
            raise no_answer(self._uri, error) from None
        check_version(self._uri)
        lock = self._outbox.lock()
        with self._changed:
            self._stop = self._finishing = self._connected = False
            self._connect_error, self._recorded = None, None
            self._read_outbox()
        self._thread = threading.Thread(
            target=self._write, args=(lock,), name=f"mlflow-{self._search}", daemon=True
        )
        self._thread.start()
        limit_s = CONNECT_TIMEOUT_S.get(urlsplit(self._uri).scheme, CONNECT_TIMEOUT_OTHER_S)
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._connect_error, limit_s)
            if not self._connected:
                self._stop = True
                self._changed.notify_all()
                if isinstance(self._connect_error, ServiceError):  # with its own remedy
                    raise self._connect_error from None
                cause = self._connect_error or TimeoutError(f"nothing within {limit_s:.0f} s")
                # The cause may hold the password, so it is not chained.
                raise no_answer(self._uri, cause) from None
        try:
            self._put("start", parameters=dict(parameters))
        except StorageError:
            self._halt()
            raise

    def has(self, outcome: Outcome) -> bool:
        """Whether the architecture had a run when this was first asked after `begin`."""
        if self._recorded is None:
            try:
                self._recorded = set(map(str, read_json(self._runs_file)))
            except (OSError, *MALFORMED):
                self._recorded = set()
        return outcome.architecture.id in self._recorded

    def outcome(self, outcome: Outcome) -> None:
        """Queue a child run: FINISHED, KILLED with its rung, or FAILED with its message.

        Raises:
            StorageError: the outbox cannot be written; so for every method that queues.
        """
        kind = outcome_kind(outcome)
        self._put(kind, **{kind: outcome.to_json()})

    def front(self, front: FrontNow) -> None:
        """Queue the current front and the search's metrics at this step."""
        self._put("front", ids=sorted(front.ids), metrics=dict(front.metrics), step=front.step)

    def results(self, results: Results) -> None:
        """Queue ranks, test metrics and uploads; files are read when they are delivered."""
        if results.ranks:
            tests = {name: dict(values) for name, values in results.test.items()}
            self._put("ranks", ranks=dict(results.ranks), test=tests)
        for files in results.files:
            self._put(
                "artifacts",
                folder=str(files.folder.resolve()),
                files=list(files.names),
                artifact_path=files.place,
                architecture=files.architecture,
            )

    def end(self, status: EndStatus = "FINISHED", timeout_s: float = 60) -> int:
        """Queue the end of the search's run, deliver what waits, and stop the thread.

        Returns:
            Number of records not delivered in time; the next start delivers them.

        Raises:
            ValueError: the status is not one of FINISHED, FAILED, KILLED.
            StorageError: the outbox cannot be written; the thread is stopped all the same.
        """
        if status not in get_args(EndStatus):
            raise ValueError(f"a run ends {', '.join(get_args(EndStatus))}; given {status!r}")
        if self._thread is None or not self._thread.is_alive():
            return self.pending
        try:
            self._put("finish", status=status)
            with self._changed:
                self._finishing = True
                self._changed.notify_all()
                self._changed.wait_for(lambda: not self._waiting, timeout_s)
        finally:
            self._halt()
        return self.pending

    def _halt(self) -> None:
        with self._changed:
            self._stop = True
            self._changed.notify_all()
        if self._thread is not None:
            # One call that hangs must not hold the search's end: the thread is a daemon.
            self._thread.join(2.0)

    def _read_outbox(self) -> None:
        self._held.clear()
        self._waiting = deque(self._outbox.records())

    def _put(self, kind: str, **content: object) -> None:
        with self._changed:
            self._waiting.append(self._outbox.put(kind, **content))
            self._changed.notify_all()

    def _connect(self) -> Projection:
        client = connect(self._uri)
        experiment_id = find_experiment(client, self._experiment)
        return Projection(client, experiment_id, self._search, self._identity, self._runs_file)

    def _write(self, lock: FileLock) -> None:
        """The writer thread: apply the oldest record until told to stop."""
        metrics = SystemMetrics(self._uri)
        try:
            try:
                projection = self._connect()
            except Exception as error:  # raised by begin
                with self._changed:
                    self._connect_error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._connected = True
                self._changed.notify_all()
            self._deliver(projection, metrics)
            projection.write_runs_file()
        finally:
            metrics.stop()
            lock.release()

    def _deliver(self, projection: Projection, metrics: SystemMetrics) -> None:
        progress = _Progress()
        while (batch := self._next_batch(projection, progress)) is not None:
            try:
                probe(self._uri)
                *earlier, record = map(self._outbox.load, batch.paths)
                progress.attempts += 1
                if record["kind"] == "finish":
                    metrics.stop()  # a run that has ended takes no more
                projection.apply(record, earlier)
            except Exception as error:  # nothing may reach the search
                if not self._gives_up(projection, progress, batch, error):
                    continue
            else:
                for sent in batch.paths:
                    sent.unlink(missing_ok=True)
                if record["kind"] == "start":
                    metrics.start(projection.parent)
            progress.delivered()
            with self._changed:
                if batch.held:
                    self._held.clear()
                else:
                    self._waiting.popleft()
                self._changed.notify_all()

    def _next_batch(self, projection: Projection, progress: _Progress) -> _Batch | None:
        """Wait for a record, or for fronts that are held to be due; None when stopped.

        The file of run ids is written in between.
        """
        while True:
            began_s = time.monotonic()
            if began_s >= progress.due_s:
                projection.write_runs_file()
                # The file grows with the search; writing it must not take more and more time.
                progress.due_s = began_s + max(RUNS_FILE_S, 20 * (time.monotonic() - began_s))
            with self._changed:
                due_s = [progress.due_s] if projection.runs_changed else []
                due_s += [progress.fronts_due_s] if self._held else []
                limit_s = max(0.0, min(due_s) - time.monotonic()) if due_s else None
                self._changed.wait_for(self._has_work, limit_s)
                if self._stop:
                    return None
                self._hold_fronts(progress)
                if self._held and self._sends_fronts(progress):
                    return _Batch(self._held.copy(), held=True)
                if self._waiting:
                    return _Batch([self._waiting[0]], held=False)

    def _has_work(self) -> bool:
        return self._stop or bool(self._waiting) or (self._finishing and bool(self._held))

    def _hold_fronts(self, progress: _Progress) -> None:
        """Hold the fronts that are next, until `_sends_fronts`."""
        if progress.alone:
            return
        while self._waiting and _kind(self._waiting[0]) == "front" and len(self._held) < TOGETHER:
            if not self._held:
                progress.fronts_due_s = time.monotonic() + FRONTS_WAIT_S
            self._held.append(self._waiting.popleft())

    def _sends_fronts(self, progress: _Progress) -> bool:
        """Whether held fronts are sent now; of what comes later, only outcomes may go first."""
        return (
            len(self._held) >= TOGETHER
            or (self._finishing and not self._waiting)
            or time.monotonic() >= progress.fronts_due_s
            or (bool(self._waiting) and _kind(self._waiting[0]) not in _OUTCOMES)
        )

    def _gives_up(
        self, projection: Projection, progress: _Progress, batch: _Batch, error: Exception
    ) -> bool:
        """Whether a record that failed was set aside; otherwise it is to be tried again."""
        # Runs may have been made or deleted without our knowing: look again.
        projection.synced = False
        if batch.held:
            progress.alone, progress.attempts = len(batch.paths), 0
            self._hold_no_more()
            return False
        reason = scrub(f"{type(error).__name__}: {error}", self._uri)
        refused = getattr(error, "error_code", "") in _REFUSALS and progress.attempts > 1
        certain = isinstance(error, RecordError) or refused
        if (certain or progress.attempts >= DOUBTFUL_ATTEMPTS) and projection.takes_writes():
            self._set_aside(projection, batch.last, reason)
            return True
        if progress.attempts <= 1:
            _log.warning("MLflow did not take %s, will retry: %s", batch.last.name, reason)
        self._pause(progress.delay_s)
        progress.delay_s = min(progress.delay_s * 2, LAST_RETRY_S)
        return False

    def _hold_no_more(self) -> None:
        """Fronts that were held wait again, each for itself, in front of what came later."""
        with self._changed:
            self._waiting.extendleft(reversed(self._held))
            self._held.clear()

    def _pause(self, delay_s: float) -> None:
        with self._changed:
            limit_s = min(delay_s, 1.0) if self._finishing else delay_s
            finishing = self._finishing
            self._changed.wait_for(lambda: self._stop or self._finishing != finishing, limit_s)

    def _set_aside(self, projection: Projection, path: Path, reason: str) -> None:
        _log.warning("MLflow refuses %s, set aside in 'refused': %s", path.name, reason)
        try:
            refused = self._outbox.set_aside(path, reason)
            projection.close_refused(self._outbox.load(refused), reason)
        except Exception as error:  # the record stays where it is, for the next start
            _log.warning("could not finish setting %s aside: %s", path.name, error)


def _kind(path: Path) -> str:
    return path.stem.partition("-")[2]

"""The outbox and the one thread that writes it to MLflow.

The search only puts records into the outbox (a folder of small files); the writer thread applies
them in order and deletes each after it was applied. A front that another one follows soon is told
with it: nobody sees it in between. A kill in between applies a record again, so applying is
idempotent: runs are found by their tags and metric points carry the record's time, which MLflow's
SQL stores use to drop a point that they have.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from filelock import FileLock, Timeout

from nas_theseus.errors import ServiceError, StorageError
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
from nas_theseus.services.mlflow.search_runs import Projection, RecordError
from nas_theseus.storage.redaction import scrub
from nas_theseus.storage.whole_files import write_bytes
from nas_theseus.values.outcomes import Evaluation, Failure, Stopped

_log = logging.getLogger(__name__)

LOCK_TIMEOUT_S = 5.0
# A fresh SQLite or SQL database is migrated on first use, which takes seconds; a server is not.
CONNECT_TIMEOUT_S = {"http": 10.0, "https": 10.0}
CONNECT_TIMEOUT_OTHER_S = 120.0
FIRST_RETRY_S, LAST_RETRY_S = 0.5, 30.0
DOUBTFUL_ATTEMPTS = 8
# How many fronts are told together, and how many records behind a front the next one is looked for.
TOGETHER, SOON = 50, 5
RUNS_FILE_S = 1.0
_REFUSALS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS"}
_ENDS = ("FINISHED", "FAILED", "KILLED")


class Tracker:
    """Queues what a search did; one thread writes it to MLflow.

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
        self._outbox = outbox
        self._runs_file = runs_file
        self._experiment = experiment_name(experiment)
        self._given_uri = tracking_uri
        self._uri = ""
        self._changed = threading.Condition()
        self._waiting: deque[Path] = deque()
        self._held: list[Path] = []  # fronts in front of those that wait, told with the next front
        self._last = 0
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
        return len(list((self._outbox / "refused").glob("*.json")))

    def start(self, parameters: Mapping[str, str | int | float | bool | None]) -> None:
        """Check that MLflow answers, then open the search's run and deliver what waits.

        Raises:
            ServiceError: MLflow does not answer within seconds, refuses, has another major version,
                or another process delivers this outbox.
            StorageError: the outbox cannot be read or written.
        """
        if self._thread is not None and self._thread.is_alive():
            raise ServiceError(f"tracking of search {self._search!r} is already running")
        self._uri = self._given_uri or mlflow.get_tracking_uri()
        quieten()
        try:
            probe(self._uri)
        except (OSError, ValueError) as error:
            raise no_answer(self._uri, error) from None
        check_version(self._uri)
        lock = self._lock_outbox()
        with self._changed:
            self._stop = self._finishing = self._connected = False
            self._connect_error = None
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
                cause = self._connect_error or TimeoutError(f"nothing within {limit_s:.0f} s")
                # The cause may hold the password, so it is not chained.
                raise no_answer(self._uri, cause) from None
        try:
            self._put("start", parameters=dict(parameters))
        except StorageError:
            self._halt()
            raise

    def evaluation(self, evaluation: Evaluation) -> None:
        """Queue a finished child run.

        Raises:
            StorageError: the outbox cannot be written; so for every method that queues.
        """
        self._put("evaluation", evaluation=evaluation.to_json())

    def stopped(self, stopped: Stopped) -> None:
        """Queue a KILLED child run with the rung as a tag."""
        self._put("stopped", stopped=stopped.to_json())

    def failure(self, failure: Failure) -> None:
        """Queue a FAILED child run with the message as a tag."""
        self._put("failure", failure=failure.to_json())

    def front(self, ids: Collection[str], metrics: Mapping[str, float], step: int) -> None:
        """Queue the current front and the search's metrics at this step."""
        self._put("front", ids=sorted(ids), metrics=dict(metrics), step=step)

    def ranks(self, ranks: Mapping[str, int], test: Mapping[str, Mapping[str, float]]) -> None:
        """Queue the front's final ranks and test metrics, by architecture."""
        tests = {name: dict(values) for name, values in test.items()}
        self._put("ranks", ranks=dict(ranks), test=tests)

    def artifacts(
        self,
        folder: Path,
        files: Sequence[str],
        artifact_path: str | None,
        architecture: str | None,
    ) -> None:
        """Queue files for upload to an architecture's run, or to the search's when None.

        Files are read when they are delivered: keep them until then.
        """
        self._put(
            "artifacts",
            folder=str(folder.resolve()),
            files=list(files),
            artifact_path=artifact_path,
            architecture=architecture,
        )

    def finish(self, status: str = "FINISHED", timeout_s: float = 60) -> int:
        """Queue the end of the search's run, deliver what waits, and stop the thread.

        Returns:
            Number of records not delivered in time; the next start delivers them.

        Raises:
            ValueError: the status is not one of FINISHED, FAILED, KILLED.
            StorageError: the outbox cannot be written; the thread is stopped all the same.
        """
        if status not in _ENDS:
            raise ValueError(f"a run ends {', '.join(_ENDS)}; given {status!r}")
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

    def _lock_outbox(self) -> FileLock:
        lock = FileLock(self._outbox / ".lock", timeout=LOCK_TIMEOUT_S, thread_local=False)
        try:
            self._outbox.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise ServiceError(
                f"the outbox {self._outbox} is being delivered by another process; wait until it "
                "ends, or end it, then start again."
            ) from None
        except OSError as error:
            raise StorageError(f"cannot use the outbox {self._outbox}: {error}") from error
        return lock

    def _read_outbox(self) -> None:
        self._held.clear()
        self._waiting = deque(sorted(self._outbox.glob("[0-9]*.json")))
        names = [*self._waiting, *(self._outbox / "refused").glob("[0-9]*.json")]
        numbers = [int(path.name.split("-")[0]) for path in names]
        self._last = max([self._last, *numbers])

    def _put(self, kind: str, **content: object) -> None:
        record = {"kind": kind, "time_ms": time.time_ns() // 1_000_000, **content}
        text = json.dumps(record)
        with self._changed:
            path = self._outbox / f"{self._last + 1:012d}-{kind}.json"
            try:
                write_bytes(path, text.encode())
            except OSError as error:
                raise StorageError(
                    f"cannot keep a tracking record in {self._outbox}: {error}. Free some space "
                    "or make the folder writable, then go on with the search."
                ) from error
            self._last += 1
            self._waiting.append(path)
            self._changed.notify_all()

    def _connect(self) -> Projection:
        client = connect(self._uri)
        experiment_id = find_experiment(client, self._experiment)
        return Projection(client, experiment_id, self._search, self._identity, self._runs_file)

    def _write(self, lock: FileLock) -> None:
        """The writer thread: apply the oldest record until told to stop."""
        try:
            try:
                projection = self._connect()
            except Exception as error:  # told to the caller of start
                with self._changed:
                    self._connect_error = error
                    self._changed.notify_all()
                return
            with self._changed:
                self._connected = True
                self._changed.notify_all()
            self._deliver(projection)
            projection.write_runs_file()
        finally:
            lock.release()

    def _deliver(self, projection: Projection) -> None:
        attempts, delay_s, due_s = 0, FIRST_RETRY_S, 0.0
        alone = 0  # how many of the next records are told alone, to find the one that is refused
        while True:
            began_s = time.monotonic()
            if began_s >= due_s:
                projection.write_runs_file()
                # The file grows with the search; writing it must not take more and more time.
                due_s = began_s + max(RUNS_FILE_S, 20 * (time.monotonic() - began_s))
            with self._changed:
                limit_s = max(0.0, due_s - time.monotonic()) if projection.runs_changed else None
                self._changed.wait_for(lambda: self._stop or self._waiting, limit_s)
                if self._stop:
                    return
                if not self._waiting:
                    continue
                if not alone and self._is_followed():
                    self._held.append(self._waiting.popleft())
                    continue
                path = self._waiting[0]
                earlier = self._held.copy() if _is_front(path) else []
            refusal: str | None = None
            try:
                probe(self._uri)
                record = self._load(path)
                attempts += 1
                projection.apply(record, [self._load(front) for front in earlier])
            except Exception as error:  # nothing may reach the search
                # Runs may have been made or deleted without our knowing: look again.
                projection.synced = False
                if earlier:
                    alone, attempts = len(earlier) + 1, 0
                    self._hold_no_more()
                    continue
                reason = scrub(f"{type(error).__name__}: {error}", self._uri)
                code = getattr(error, "error_code", "")
                certain = isinstance(error, RecordError) or (code in _REFUSALS and attempts > 1)
                if (certain or attempts >= DOUBTFUL_ATTEMPTS) and projection.takes_writes():
                    refusal = reason
                else:
                    if attempts <= 1:
                        _log.warning("MLflow did not take %s, will retry: %s", path.name, reason)
                    self._pause(delay_s)
                    delay_s = min(delay_s * 2, LAST_RETRY_S)
                    continue
            if refusal is not None:
                self._set_aside(projection, path, refusal)
            else:
                for told in (*earlier, path):
                    told.unlink(missing_ok=True)
            attempts, delay_s, alone = 0, FIRST_RETRY_S, max(0, alone - 1)
            with self._changed:
                if earlier:
                    self._held.clear()
                self._waiting.popleft()
                self._changed.notify_all()

    def _is_followed(self) -> bool:
        """Whether the oldest that waits is a front, and another one comes soon."""
        first, *others = islice(self._waiting, SOON)
        return _is_front(first) and len(self._held) < TOGETHER and any(map(_is_front, others))

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

    def _load(self, path: Path) -> dict[str, Any]:
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecordError(f"the record is damaged: {error}") from error
        if not isinstance(record, dict):
            raise RecordError("the record is damaged: not a JSON object")
        return record

    def _set_aside(self, projection: Projection, path: Path, reason: str) -> None:
        kept = path.parent / "refused" / path.name
        _log.warning("MLflow refuses %s, set aside in %s: %s", path.name, kept.parent, reason)
        try:
            write_bytes(kept.with_suffix(".reason.txt"), reason.encode())
            os.replace(path, kept)
            projection.close_refused(self._load(kept), reason)
        except Exception as error:  # the record stays where it is, for the next start
            _log.warning("could not finish setting %s aside: %s", path.name, error)


def _is_front(path: Path) -> bool:
    return path.name.endswith("-front.json")

"""Trackers: they record what a search does; one that fails affects nothing else.

Files in the storage folder are the source of truth for results, and trackers only copy from them.
So a tracker may fail at any time: its records are queued, and the search continues.
"""

from __future__ import annotations

import logging
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from nas_theseus.errors import ServiceError, StorageError, TheseusError
from nas_theseus.storage.json_lines import JsonLines
from nas_theseus.values.outcomes import Evaluation, Outcome, Stopped
from nas_theseus.values.registers import TRACKERS
from nas_theseus.values.tracking import EndStatus, FrontNow, Parameter, Results, TrackerContext

_log = logging.getLogger(__name__)

# After so many failures a record no longer holds back those after it.
TRIES = 3
# Each front replaces the one before, so that the oldest queued fronts can be dropped.
MOST_FRONTS = 500
# Time limit at the end for the records that are queued in memory.
END_LIMIT_S = 60.0


class Tracker(Protocol):
    """Records what a search does.

    A search calls these methods in the order below, all on one thread, and waits for each call, so
    a slow tracker should queue its records. The register `TRACKERS` has a factory for each tracker
    by name, ``(context: TrackerContext) -> Tracker``; the factory opens nothing.
    """

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        """A search begins or resumes; called before anything is trained.

        Raises:
            TheseusError: the tracker cannot work, for example because a server does not answer.
                This ends the search; errors of the other methods do not.
        """

    def has(self, outcome: Outcome) -> bool:
        """Whether this outcome was recorded before the search was resumed.

        A resumed search sends each tracker the outcomes that it has not recorded. A tracker that
        cannot know returns False, and is sent all of them.
        """

    def outcome(self, outcome: Outcome) -> None:
        """A candidate was evaluated, was stopped at a rung, or failed."""

    def front(self, front: FrontNow) -> None:
        """The front and the search's own metrics, after one or more outcomes."""

    def results(self, results: Results) -> None:
        """The front was tested and its files were written."""

    def end(self, status: EndStatus) -> int:
        """The search ends.

        Returns:
            Number of records that were not delivered; the tracker delivers them at its next begin.
        """


def outcome_kind(outcome: Outcome) -> Literal["evaluation", "stopped", "failure"]:
    """The kind of an outcome, as records name it."""
    if isinstance(outcome, Evaluation):
        return "evaluation"
    return "stopped" if isinstance(outcome, Stopped) else "failure"


class CallbackTracker:
    """A callback of a space file as a tracker.

    Args:
        callback: a function of one `Outcome`, or an object with any of the methods ``begin``,
            ``outcome``, ``front``, ``results`` and ``end``, whose arguments are those of `Tracker`.
        called: file of the outcomes that the callback was called with, so that a resumed search
            calls it with the others only. If the search is killed during a call, that outcome is
            repeated.
    """

    def __init__(self, callback: object, called: JsonLines) -> None:
        self._callback, self._file = callback, called
        self._called: set[tuple[str, str]] | None = None

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        self._call("begin", parameters)

    def has(self, outcome: Outcome) -> bool:
        if self._called is None:
            self._called = {(line["kind"], line["name"]) for line in self._file.read()}
        return (outcome_kind(outcome), outcome.name) in self._called

    def outcome(self, outcome: Outcome) -> None:
        if hasattr(self._callback, "outcome"):
            self._callback.outcome(outcome)
        elif callable(self._callback):
            self._callback(outcome)
        else:
            return
        try:
            self._file.append({"kind": outcome_kind(outcome), "name": outcome.name})
        except StorageError as error:
            # The callback has run; calling it again would repeat its effects.
            _log.warning("a resumed search will repeat outcome %s: %s", outcome.name, error)

    def front(self, front: FrontNow) -> None:
        self._call("front", front)

    def results(self, results: Results) -> None:
        self._call("results", results)

    def end(self, status: EndStatus) -> int:
        self._call("end", status)
        return 0

    def _call(self, method: str, content: object) -> None:
        called = getattr(self._callback, method, None)
        if called is not None:
            called(content)


@dataclass(eq=False)
class _Record:
    """A tracker call that may have to be repeated; of an outcome on disk only its name."""

    method: Literal["begin", "outcome", "front", "results"]
    content: Any
    tries: int = 0


class _Member:
    """One tracker, and its queue of records that could not be delivered.

    Args:
        label: its name in messages, such as "tracker mlflow".
        read: reads the outcome of a name from disk; returns None if there is none.
        say: shows one line to the user.
    """

    def __init__(
        self,
        label: str,
        tracker: Tracker,
        read: Callable[[str], Outcome | None],
        say: Callable[[str], None],
    ) -> None:
        self.label, self.tracker = label, tracker
        self._read, self._say = read, say
        self._waiting: deque[_Record] = deque()
        self._aside: deque[_Record] = deque()  # failed TRIES times: tried when nothing else waits
        self._reported = False

    def send(self, record: _Record) -> None:
        """Deliver the queued records in order, then this one; stop at the first failure."""
        self._waiting.append(record)
        while self._waiting:
            first = self._waiting[0]
            if not self._delivers(first):
                if first.tries >= TRIES:
                    self._aside.append(self._waiting.popleft())
                self._shrink(record)
                self._drop_old_fronts()
                return
            self._waiting.popleft()
        while self._aside:
            if not self._delivers(self._aside[0]):
                self._aside.rotate(-1)
                return
            self._aside.popleft()

    def lacks(self, outcome: Outcome) -> bool:
        """Whether a resumed search must send this outcome; true if the tracker fails to answer."""
        try:
            return not self.tracker.has(outcome)
        except Exception as error:
            self._report(error)
            return True

    def end(self, status: EndStatus) -> int:
        """Try each queued record once more, then end the tracker.

        Returns:
            Number of records that were not delivered.
        """
        until_s = time.monotonic() + END_LIMIT_S
        records = [*self._aside, *self._waiting]
        left = [r for r in records if time.monotonic() > until_s or not self._delivers(r)]
        try:
            return len(left) + self.tracker.end(status)
        except Exception as error:
            self._report(error)
            return len(left) + 1

    def _delivers(self, record: _Record) -> bool:
        record.tries += 1
        try:
            content = record.content
            if isinstance(content, str):
                content = self._read(content)
                if content is None:
                    _log.warning("%s: outcome %s is gone from the disk", self.label, record.content)
                    return True
            getattr(self.tracker, record.method)(content)
        except Exception as error:  # whatever it is, the search continues
            self._report(error)
            return False
        return True

    def _shrink(self, record: _Record) -> None:
        """Replace an outcome by its name if it can be read from disk, to save memory."""
        if record.method != "outcome" or isinstance(record.content, str):
            return
        try:
            if self._read(record.content.name) is not None:
                record.content = record.content.name
        except Exception as error:
            _log.warning("%s: cannot read an outcome back: %s", self.label, error)

    def _drop_old_fronts(self) -> None:
        records = [*self._aside, *self._waiting]
        fronts = [record for record in records if record.method == "front"]
        for record in fronts[: max(0, len(fronts) - MOST_FRONTS)]:
            (self._aside if record in self._aside else self._waiting).remove(record)

    def _report(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        # An error of ours says what happened; of any other the first traceback helps.
        traced = not self._reported and not isinstance(error, TheseusError)
        _log.warning("%s failed: %s", self.label, reason, exc_info=traced)
        if not self._reported:
            self._reported = True
            line = " ".join(reason.split())
            self._say(f"{self.label} failed and will be tried again; the search continues: {line}")


class Trackers:
    """All trackers of a search, each independent of the others.

    After `begin`, errors are logged, and the first one of each tracker is shown to the user in one
    line. The record is queued, and tried again with the next record and at the end. Memory stays
    bounded: queued outcomes are read from disk again, and at most `MOST_FRONTS` fronts are queued.

    Args:
        trackers: by name; an error in their `begin` ends the search.
        callbacks: by name; an error in their `begin` does not.
        read: reads the outcome of a name from disk; returns None if there is none.
        say: shows one line to the user.
    """

    def __init__(
        self,
        trackers: Mapping[str, Tracker],
        callbacks: Mapping[str, Tracker],
        read: Callable[[str], Outcome | None],
        say: Callable[[str], None],
    ) -> None:
        self._trackers = [_Member(f"tracker {n}", t, read, say) for n, t in trackers.items()]
        self._callbacks = [_Member(f"callback {n}", t, read, say) for n, t in callbacks.items()]
        self._members = [*self._trackers, *self._callbacks]

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        """Begin all trackers; if one fails, those that had begun are ended as KILLED.

        Raises:
            TheseusError: the tracker's own error; any other kind becomes a `ServiceError`.
        """
        for position, member in enumerate(self._trackers):
            try:
                member.tracker.begin(parameters)
            except BaseException as error:
                for begun in self._trackers[:position]:
                    begun.end("KILLED")
                if isinstance(error, TheseusError) or not isinstance(error, Exception):
                    raise
                raise ServiceError(
                    f"{member.label} cannot begin: {type(error).__name__}: {error}; fix it, or "
                    "search without it"
                ) from error
        for member in self._callbacks:
            member.send(_Record("begin", parameters))

    def resume(self, outcomes: Iterable[Outcome]) -> None:
        """Send each tracker the earlier outcomes that it has not recorded."""
        for outcome in outcomes:
            for member in self._members:
                if member.lacks(outcome):
                    member.send(_Record("outcome", outcome))

    def outcome(self, outcome: Outcome) -> None:
        """A candidate was evaluated, was stopped at a rung, or failed."""
        self._send("outcome", outcome)

    def front(self, front: FrontNow) -> None:
        """The current front, and metrics of the search itself."""
        self._send("front", front)

    def results(self, results: Results) -> None:
        """The front was tested and its files were written."""
        self._send("results", results)

    def end(self, status: EndStatus) -> int:
        """Deliver the queued records, and end all trackers.

        Returns:
            Number of records that were not delivered, over all trackers.
        """
        return sum(member.end(status) for member in self._members)

    def _send(self, method: Literal["outcome", "front", "results"], content: object) -> None:
        for member in self._members:
            # Each tracker has its own record, which counts its tries.
            member.send(_Record(method, content))


def make_trackers(
    names: Sequence[str],
    callbacks: Sequence[object],
    context: TrackerContext,
    read: Callable[[str], Outcome | None],
    say: Callable[[str], None],
) -> Trackers:
    """The trackers of these names in `TRACKERS`, and a space file's callbacks; opens nothing.

    Raises:
        UnknownNameError: no tracker has one of the names.
    """
    trackers: dict[str, Tracker] = {name: TRACKERS[name](context) for name in names}
    wrapped: dict[str, Tracker] = {}
    seen = Counter[str]()
    for callback in callbacks:
        name = str(getattr(callback, "__qualname__", type(callback).__qualname__))
        name = re.sub(r"\W+", "_", name.rpartition(".")[2]).strip("_")
        seen[name] += 1
        name = name if seen[name] == 1 else f"{name}-{seen[name]}"
        called = JsonLines(context.folder / "callbacks" / f"{name}.jsonl")
        wrapped[name] = CallbackTracker(callback, called)
    return Trackers(trackers, wrapped, read, say)

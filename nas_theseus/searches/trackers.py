"""Trackers: who is told what a search does, and how one that fails is kept apart from the rest.

Files under the storage folder are the truth of results; what a tracker records is derived from
them. So a tracker may fail at any time: its records wait, and the search goes on.
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

# A record that failed so often no longer holds back those behind it.
TRIES = 3
# Each front replaces the one before, so that of those that wait the oldest can go.
MOST_FRONTS = 500
# How long a tracker is given at the end for the records that wait in memory.
END_LIMIT_S = 60.0


class Tracker(Protocol):
    """Records what a search does.

    A search calls these methods in the order below, all on one thread, and waits for each: a
    tracker that takes long queues its records. The register `TRACKERS` has a factory of each
    tracker by name, ``(context: TrackerContext) -> Tracker``; the factory opens nothing.
    """

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        """A search begins or resumes; nothing has been trained since.

        Raises:
            TheseusError: the tracker cannot work, such as a server that does not answer. This ends
                the search. Any other method that raises does not.
        """

    def has(self, outcome: Outcome) -> bool:
        """Whether this outcome was recorded before the search was resumed.

        A resumed search sends the outcomes that a tracker lacks. One that cannot know answers
        False, and is sent all of them.
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
    """What records call an outcome."""
    if isinstance(outcome, Evaluation):
        return "evaluation"
    return "stopped" if isinstance(outcome, Stopped) else "failure"


class CallbackTracker:
    """A callback of a space file as a tracker.

    Args:
        callback: a function of one `Outcome`, or an object with any of the methods ``begin``,
            ``outcome``, ``front``, ``results`` and ``end``, whose arguments are those of `Tracker`.
        told: names of the outcomes that the callback was called with, so that a resumed search
            calls it with the others. An outcome during which the search was killed is repeated.
    """

    def __init__(self, callback: object, told: JsonLines) -> None:
        self._callback, self._file = callback, told
        self._told: set[tuple[str, str]] | None = None

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        self._call("begin", parameters)

    def has(self, outcome: Outcome) -> bool:
        if self._told is None:
            self._told = {(line["kind"], line["name"]) for line in self._file.read()}
        return (outcome_kind(outcome), outcome.name) in self._told

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
            # The callback has done its part; calling it again now would double that.
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
    """A call of a tracker that may have to be repeated; an outcome on disk stands as its name."""

    method: Literal["begin", "outcome", "front", "results"]
    content: Any
    tries: int = 0


class _Member:
    """One tracker, and the records that it failed to take.

    Args:
        label: what messages call it, such as "tracker mlflow".
        read: gives the outcome of a name from the disk; None when there is none.
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
        """Deliver what waits in order, then this record; one failure ends the attempt."""
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
        """Whether a resumed search must send an outcome; a tracker that fails here lacks it."""
        try:
            return not self.tracker.has(outcome)
        except Exception as error:
            self._report(error)
            return True

    def end(self, status: EndStatus) -> int:
        """Try each record that waits once more, then end the tracker.

        Returns:
            Number of records that it does not have.
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
        except Exception as error:  # whatever it is, the search goes on
            self._report(error)
            return False
        return True

    def _shrink(self, record: _Record) -> None:
        """Keep the name alone of an outcome that can be read back."""
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
        _log.warning("%s failed: %s", self.label, reason, exc_info=not self._reported)
        if not self._reported:
            self._reported = True
            line = " ".join(reason.split())
            self._say(f"{self.label} failed and will be tried again; the search goes on: {line}")


class Trackers:
    """Tells every tracker of a search, each independent of the others.

    After `begin`, an error of one is logged, and its first is shown to the user in one line. The
    record waits and is tried again with the next one and at the end. Outcomes that wait are read
    from the disk again, and of the fronts the last `MOST_FRONTS` wait, so memory stays bounded.

    Args:
        trackers: by name; an error in their `begin` ends the search.
        callbacks: by name; an error in their `begin` does not.
        read: gives the outcome of a name from the disk; None when there is none.
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
        """Begin all of them; if one cannot work, those begun before it are ended as KILLED.

        Raises:
            TheseusError: as the tracker raised it; any other error becomes a `ServiceError`.
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
                    f"{member.label} cannot begin: {type(error).__name__}: {error}; mend it, or "
                    "search without it"
                ) from error
        for member in self._callbacks:
            member.send(_Record("begin", parameters))

    def resume(self, outcomes: Iterable[Outcome]) -> None:
        """Send each tracker those of a search's earlier outcomes that it lacks."""
        for outcome in outcomes:
            for member in self._members:
                if member.lacks(outcome):
                    member.send(_Record("outcome", outcome))

    def outcome(self, outcome: Outcome) -> None:
        """A candidate was evaluated, was stopped at a rung, or failed."""
        self._send("outcome", outcome)

    def front(self, front: FrontNow) -> None:
        """The front and the search's own metrics, as they are now."""
        self._send("front", front)

    def results(self, results: Results) -> None:
        """The front was tested and its files were written."""
        self._send("results", results)

    def end(self, status: EndStatus) -> int:
        """Deliver what waits and end all of them.

        Returns:
            Number of records that were not delivered, over all trackers.
        """
        return sum(member.end(status) for member in self._members)

    def _send(self, method: Literal["outcome", "front", "results"], content: object) -> None:
        for member in self._members:
            # Each has a record of its own, since it counts the tries.
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
        told = JsonLines(context.folder / "callbacks" / f"{name}.jsonl")
        wrapped[name] = CallbackTracker(callback, told)
    return Trackers(trackers, wrapped, read, say)

"""The tracker "json-lines": a file with one JSON object per line, in the search's folder."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from nas_theseus.searches.trackers import outcome_kind
from nas_theseus.storage.json_lines import JsonLines
from nas_theseus.values.outcomes import Failure, Outcome
from nas_theseus.values.tracking import EndStatus, FrontNow, Parameter, Results, TrackerContext

FILE = "records.jsonl"
_OUTCOMES = ("evaluation", "stopped", "failure")


class JsonLinesTracker:
    """Appends what a search does to ``records.jsonl``, one line per record.

    Every line has ``kind`` and ``time_ms`` (milliseconds since 1970). The kinds:

    - ``begin``: ``search``, ``identity`` and ``parameters``; one for each launch of the search.
    - ``evaluation``, ``stopped`` and ``failure``: ``name`` (of architecture, recipe and seed),
      ``architecture`` (its id), ``blocks``, ``values`` (metrics and costs by name; empty for
      a failure) and ``outcome`` (everything, as in the search's folder ``evaluations``).
    - ``front``: ``ids`` of the members, the search's own ``metrics``, and ``step``.
    - ``results``: ``ranks`` and ``test`` metrics by architecture, and paths of ``files``.
    - ``end``: ``status``.

    An outcome is written once, however often the search is killed and resumed. A front or results
    that equal the last ones are not written again.
    """

    def __init__(self, context: TrackerContext) -> None:
        self._context = context
        self._file = JsonLines(context.folder / FILE)
        self._recorded: set[tuple[str, str]] = set()
        self._last: dict[str, dict[str, Any]] = {}

    def begin(self, parameters: Mapping[str, Parameter]) -> None:
        """Read what was recorded before, and write the first line of this launch.

        Raises:
            StorageError: the file cannot be read or written.
        """
        for line in self._file.read():
            kind = line.pop("kind", None)
            line.pop("time_ms", None)
            if kind in _OUTCOMES:
                self._recorded.add((kind, line.get("name", "")))
            elif kind in ("front", "results"):
                self._last[kind] = line
        self._append(
            "begin",
            search=self._context.search,
            identity=self._context.identity,
            parameters=dict(parameters),
        )

    def has(self, outcome: Outcome) -> bool:
        return (outcome_kind(outcome), outcome.name) in self._recorded

    def outcome(self, outcome: Outcome) -> None:
        """Write an outcome.

        Raises:
            StorageError: the file cannot be written; the same for every method that writes.
        """
        if self.has(outcome):
            return
        kind = outcome_kind(outcome)
        self._append(
            kind,
            name=outcome.name,
            architecture=outcome.architecture.id,
            blocks=outcome.architecture.blocks,
            values={} if isinstance(outcome, Failure) else outcome.values(),
            outcome=outcome.to_json(),
        )
        self._recorded.add((kind, outcome.name))

    def front(self, front: FrontNow) -> None:
        self._append_new("front", ids=list(front.ids), metrics=dict(front.metrics), step=front.step)

    def results(self, results: Results) -> None:
        self._append_new(
            "results",
            ranks=dict(results.ranks),
            test={name: dict(values) for name, values in results.test.items()},
            files=[str(files.folder / name) for files in results.files for name in files.names],
        )

    def end(self, status: EndStatus) -> int:
        self._append("end", status=status)
        return 0

    def _append_new(self, kind: str, **content: Any) -> None:
        if self._last.get(kind) != content:
            self._append(kind, **content)
            self._last[kind] = content

    def _append(self, kind: str, **content: Any) -> None:
        self._file.append({"kind": kind, "time_ms": time.time_ns() // 1_000_000, **content})


MEMBER = JsonLinesTracker

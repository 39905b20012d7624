"""MLflow's runs of one search: brings them to what a record says, however often it is applied."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Metric, Run, ViewType
from mlflow.tracking import MlflowClient

from nas_theseus.services.mlflow.artifact_root import log_artifact
from nas_theseus.services.mlflow.runs import (
    TAG_CHARACTERS,
    architecture_params,
    artifact_folder,
    as_tags,
    as_texts,
    dataset_input,
    evaluation_metrics,
    run_name,
    shorten,
    write_run,
)
from nas_theseus.storage.whole_files import write_bytes
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.outcomes import Evaluation, Failure, Outcome, Stopped

_log = logging.getLogger(__name__)


class RecordError(Exception):
    """A record that cannot be applied whatever the server does."""


@dataclass
class _Child:
    """What the writer remembers of an architecture's run."""

    run_id: str
    status: str = "RUNNING"
    evaluation: str = ""
    rank: str | None = None


class Projection:
    """The search's runs in MLflow; used by the writer thread alone."""

    def __init__(
        self,
        client: MlflowClient,
        experiment_id: str,
        search: str,
        identity: str,
        runs_file: Path,
    ) -> None:
        self.client = client
        self.synced = False
        self._experiment_id = experiment_id
        self._search = search
        self._identity = identity
        self._schedule: str | None = None
        self._runs_file = runs_file
        self.runs_changed = False
        self._parent: str | None = None
        self._children: dict[str, _Child] = {}
        self._front: set[str] = set()
        self._marked: set[str] = set()  # whose runs say that they are on the front

    @property
    def parent(self) -> str:
        """Run id of the search, once its start was applied."""
        assert self._parent is not None
        return self._parent

    def sync(self) -> None:
        """Read the search's runs; drop a run that a lost answer made us create twice."""
        found: list[Run] = []
        token: str | None = None
        while True:
            page = self.client.search_runs(
                [self._experiment_id],
                f"tags.`theseus.identity` = '{self._identity}'",
                ViewType.ACTIVE_ONLY,
                max_results=1000,
                page_token=token,
            )
            found += [run for run in page if run.data.tags["theseus.identity"] == self._identity]
            token = page.token
            if not token:
                break
        found.sort(key=lambda run: (run.info.status == "RUNNING", run.info.start_time))
        parent, children, marked = None, dict[str, _Child](), set[str]()
        for run in found:
            tags = run.data.tags
            name = tags.get("theseus.architecture")
            if tags.get("theseus.kind") == "search" and parent is None:
                parent = run.info.run_id
            elif tags.get("theseus.kind") == "architecture" and name and name not in children:
                children[name] = _Child(
                    run.info.run_id,
                    run.info.status,
                    tags.get("theseus.evaluation", ""),
                    tags.get("theseus.rank"),
                )
                if tags.get("theseus.front") == "true":
                    marked.add(name)
            elif self._is_double(run, children.get(name or "")):
                self.client.delete_run(run.info.run_id)
        self._parent, self._children, self._marked, self.synced = parent, children, marked, True
        self.runs_changed = True

    def _is_double(self, run: Run, kept: _Child | None) -> bool:
        """Whether a run is ours and says nothing that the kept one does not."""
        tags = run.data.tags
        if tags.get("theseus.kind") == "search":
            return bool(run.info.status == "RUNNING")
        same = kept is not None and (
            tags.get("theseus.evaluation", "") in ("", kept.evaluation) or not run.data.params
        )
        return tags.get("theseus.kind") == "architecture" and same

    def apply(self, record: Mapping[str, Any], earlier: Sequence[Mapping[str, Any]] = ()) -> None:
        """Bring MLflow to what a record says, whether or not it was applied before.

        Args:
            earlier: fronts in front of this one, whose metrics are told with it.
        """
        if not self.synced:
            self.sync()
        time_ms = int(record["time_ms"])
        kind = record["kind"]
        if kind == "start":
            self._start(record["parameters"], time_ms)
        elif kind == "evaluation":
            self._evaluation(Evaluation.from_json(record["evaluation"]), time_ms)
        elif kind == "stopped":
            self._stopped(Stopped.from_json(record["stopped"]), time_ms)
        elif kind == "failure":
            self._failure(Failure.from_json(record["failure"]), time_ms)
        elif kind == "front":
            self._set_front(record["ids"], [*earlier, record])
        elif kind == "ranks":
            self._set_ranks(record["ranks"], record["test"], time_ms)
        elif kind == "artifacts":
            self._upload(record, time_ms)
        elif kind == "finish":
            self.sync()
            self.client.set_terminated(self._parent_run(time_ms), record["status"], time_ms)
        else:
            raise RecordError(f"unknown kind of record {kind!r}")

    def takes_writes(self) -> bool:
        """Whether the server accepts something harmless, so that a refusal is the record's."""
        try:
            if not self.synced:
                self.sync()
            now_ms = time.time_ns() // 1_000_000
            self.client.set_tag(self._parent_run(now_ms), "theseus.checked", str(now_ms))
        except Exception:  # any failure means the same: not now
            return False
        return True

    def close_refused(self, record: Mapping[str, Any], reason: str) -> None:
        """End the run that a refused record left open."""
        item = record.get("evaluation") or record.get("stopped") or record.get("failure")
        if not item:
            return
        child = self._children.get(Architecture.from_json(item["architecture"]).id)
        if child is not None and child.status == "RUNNING":
            text = shorten(f"MLflow refused the record: {reason}", TAG_CHARACTERS)
            self.client.set_tag(child.run_id, "theseus.failure", text)
            self.client.set_terminated(child.run_id, "FAILED")
            child.status = "FAILED"

    def write_runs_file(self) -> None:
        """Tell other commands the run ids; never an obstacle to the search."""
        if not self.runs_changed:
            return
        runs = {"parent": self._parent} if self._parent else {}
        runs |= {name: child.run_id for name, child in sorted(self._children.items())}
        try:
            write_bytes(self._runs_file, json.dumps(runs).encode())
            self.runs_changed = False
        except OSError as error:
            _log.warning("cannot write the run ids to %s: %s", self._runs_file, error)

    def _parent_run(self, time_ms: int) -> str:
        if self._parent is None:
            tags = {
                "theseus.search": self._search,
                "theseus.identity": self._identity,
                "theseus.kind": "search",
            }
            run = self.client.create_run(self._experiment_id, time_ms, tags, self._search)
            self._parent, self.runs_changed = run.info.run_id, True
            for child in self._children.values():  # their parent was deleted
                self.client.set_tag(child.run_id, "mlflow.parentRunId", self._parent)
        return self._parent

    def _start(self, parameters: Mapping[str, object], time_ms: int) -> None:
        run_id = self._parent_run(time_ms)
        schedule = parameters.get("recipe.schedule")
        self._schedule = None if schedule is None else str(schedule)
        self.client.update_run(run_id, status="RUNNING")
        data = self.client.get_run(run_id).data
        texts = as_texts(parameters)
        # MLflow never changes a parameter: what a later start changed stands in tags.
        changed = {
            f"theseus.changed.{name}": text
            for name, text in texts.items()
            if name in data.params
            and (data.params[name] != text or f"theseus.changed.{name}" in data.tags)
        }
        new = {name: text for name, text in texts.items() if name not in data.params}
        write_run(self.client, run_id, params=new, tags=changed)
        if "data.hash" in texts:
            self.client.log_inputs(run_id, [dataset_input(texts)])  # once: MLflow knows its digest

    def _open_child(
        self,
        item: Outcome,
        start_ms: int,
        time_ms: int,
        tags: Mapping[str, str],
        metrics: Sequence[Metric] = (),
    ) -> _Child:
        """The architecture's run, RUNNING, with its parameters, tags and metrics."""
        architecture = item.architecture
        params = architecture_params(item)
        if self._schedule:
            params["schedule"] = self._schedule
        tags = {**tags, "theseus.evaluation": item.name}
        child = self._children.get(architecture.id)
        if child is None:
            front = architecture.id in self._front
            born = {
                **as_tags(tags),
                "theseus.search": self._search,
                "theseus.identity": self._identity,
                "theseus.kind": "architecture",
                "theseus.architecture": architecture.id,
                "theseus.front": str(front).lower(),
                "mlflow.parentRunId": self._parent_run(time_ms),
            }
            name = run_name(architecture)
            run = self.client.create_run(self._experiment_id, start_ms, born, name)
            child = _Child(run.info.run_id)
            if front:
                self._marked.add(architecture.id)
            self._children[architecture.id] = child
            self.runs_changed = True
            tags = {}
        else:
            data = self.client.get_run(child.run_id).data
            # Evaluated again under another recipe or seed: parameters keep the first, the tag
            # theseus.evaluation names the last.
            params = {name: text for name, text in params.items() if name not in data.params}
            marks = {"theseus.failure", "theseus.stage", "theseus.stopped"}
            for stale in marks & set(data.tags) - set(tags):
                self.client.delete_tag(child.run_id, stale)
            if child.status != "RUNNING":
                self.client.update_run(child.run_id, status="RUNNING")
                child.status = "RUNNING"
        write_run(self.client, child.run_id, metrics, params, tags)
        child.evaluation = item.name
        return child

    def _evaluation(self, evaluation: Evaluation, time_ms: int) -> None:
        known = self._children.get(evaluation.architecture.id)
        if known and (known.status, known.evaluation) == ("FINISHED", evaluation.name):
            return
        tags = {"theseus.notes": "\n".join(evaluation.notes)} if evaluation.notes else {}
        start_ms = time_ms - int(evaluation.seconds * 1000)
        metrics = evaluation_metrics(evaluation, time_ms)
        child = self._open_child(evaluation, start_ms, time_ms, tags, metrics)
        self.client.set_terminated(child.run_id, "FINISHED", time_ms)
        child.status = "FINISHED"

    def _stopped(self, stopped: Stopped, time_ms: int) -> None:
        """Its metrics as they were at the rung, and what was predicted as ``predicted_*``."""
        known = self._children.get(stopped.architecture.id)
        if known and known.evaluation == stopped.name and known.status in ("FINISHED", "KILLED"):
            return
        start_ms = time_ms - int(stopped.evaluation.seconds * 1000)
        predicted = [
            Metric(f"predicted_{name}", value, time_ms, 0)
            for name, value in stopped.predicted.items()
        ]
        metrics = [*evaluation_metrics(stopped.evaluation, time_ms), *predicted]
        tags = {"theseus.stopped": stopped.rung}
        child = self._open_child(stopped, start_ms, time_ms, tags, metrics)
        self.client.set_terminated(child.run_id, "KILLED", time_ms)
        child.status = "KILLED"

    def _failure(self, failure: Failure, time_ms: int) -> None:
        known = self._children.get(failure.architecture.id)
        if known and known.status == "FINISHED":
            return  # a result outlives an older attempt's failure
        if known and (known.status, known.evaluation) == ("FAILED", failure.name):
            return
        tags = {"theseus.failure": failure.message, "theseus.stage": failure.stage}
        metrics = [Metric(p.metric, p.value, time_ms, p.step) for p in failure.curve]
        child = self._open_child(failure, time_ms, time_ms, tags, metrics)
        self.client.set_terminated(child.run_id, "FAILED", time_ms)
        child.status = "FAILED"

    def _set_front(self, ids: Iterable[str], fronts: Sequence[Mapping[str, Any]]) -> None:
        """Mark the members; tell the search's metrics as they were at each of the fronts."""
        self._front = set(ids)
        for name in sorted(self._marked ^ self._front):
            if child := self._children.get(name):
                on = name in self._front
                self.client.set_tag(child.run_id, "theseus.front", str(on).lower())
        self._marked = self._front & self._children.keys()
        points = [
            Metric(name, value, int(front["time_ms"]), int(front["step"]))
            for front in fronts
            for name, value in front["metrics"].items()
        ]
        write_run(self.client, self._parent_run(int(fronts[-1]["time_ms"])), points)

    def _set_ranks(
        self, ranks: Mapping[str, int], test: Mapping[str, Mapping[str, float]], time_ms: int
    ) -> None:
        for name, child in self._children.items():
            rank = str(ranks[name]) if name in ranks else None
            if rank is None and child.rank is not None:
                self.client.delete_tag(child.run_id, "theseus.rank")
            points = [
                Metric(f"test_{metric.removeprefix('test_')}", float(value), time_ms, 0)
                for metric, value in test.get(name, {}).items()
            ]
            tags = {"theseus.rank": rank} if rank is not None and rank != child.rank else {}
            write_run(self.client, child.run_id, points, tags=tags)
            child.rank = rank

    def _upload(self, record: Mapping[str, Any], time_ms: int) -> None:
        name, target = record["architecture"], record["artifact_path"]
        if name is None:
            run_id = self._parent_run(time_ms)
        elif name in self._children:
            run_id = self._children[name].run_id
        else:
            raise RecordError(f"architecture {name} has no run to upload files to")
        paths = [Path(record["folder"]) / file for file in record["files"]]
        if missing := [str(path) for path in paths if not path.is_file()]:
            raise RecordError(f"files to upload are gone: {', '.join(missing)}")
        for file, path in zip(record["files"], paths, strict=True):
            log_artifact(self.client, run_id, path, artifact_folder(target, file))

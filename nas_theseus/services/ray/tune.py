"""Jobs as trials of Ray Tune, through Tune's own plug-in points."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ray import tune
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

from nas_theseus.errors import StorageError, TheseusError
from nas_theseus.values.events import Ended, Reached
from nas_theseus.values.ids import canonical_json
from nas_theseus.values.outcomes import Evaluation

# A worker imports this module, and torch only with the work that needs it.
if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    from nas_theseus.searches.execution import Job, Jobs, MakeWorker, Promotes


class JobSearcher(Searcher):
    """A Tune Searcher that hands out jobs; it proposes nothing itself.

    It also runs a job again if its worker died. Tune's own retries miss a trial that dies while its
    actor is being set up, or taken over from another trial.
    """

    def __init__(self, jobs: Jobs[Any], max_failures: int) -> None:
        super().__init__()
        self._jobs = jobs
        self._max_failures = max_failures
        self._running: dict[str, Job] = {}
        self._again: list[Job] = []
        self._failures: Counter[str] = Counter()
        self._stopped: TheseusError | None = None

    # Tune's annotation leaves out FINISHED, which its documentation names.
    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]
        job = self._again.pop(0) if self._again else self._jobs.next()
        if job is None:
            # A running job may have to be run again, and Tune asks no more after FINISHED.
            return None if self._running else str(Searcher.FINISHED)
        self._running[trial_id] = job
        return packed(job)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self._running and "stage" in result:
            self._jobs.reported(self._running[trial_id], result["stage"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if self._stopped is not None:
            # Tune treats what is raised here as the trial's error, and reports its end again.
            raise self._stopped
        try:
            self._end(self._running.pop(trial_id), result or {}, error)
        except TheseusError as stopped:
            self._stopped = stopped
            raise

    def _end(self, job: Job, result: Mapping[str, Any], error: bool) -> None:
        if not_saved := result.get("not_saved"):
            # Not reported as the job's end, so that a resumed search runs this job first.
            raise StorageError(f"{not_saved}; then the same command continues from here")
        if error:
            self._failures[job.id] += 1
            if self._failures[job.id] <= self._max_failures:
                self._jobs.reported(job, "again")
                self._again.append(job)
                return
        died = f"its worker died {self._failures[job.id]} times"
        self._jobs.ended(job, died if error else result.get("failure"))

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that is never used, and this could not be pickled.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Does nothing: the study has all proposals, and Tune's restore is never used."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Does nothing; see `save`."""


class RungScheduler(FIFOScheduler):
    """A Tune scheduler that stops a trial at a rung if the search does not promote it."""

    def __init__(self, promotes: Promotes) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._promotes = promotes

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        if "rung" not in result:
            return TrialScheduler.CONTINUE
        evaluation = Evaluation.from_json(json.loads(result["evaluation"]))
        promoted = self._promotes(Reached(result["rung"], evaluation))
        return TrialScheduler.CONTINUE if promoted else TrialScheduler.STOP

    def __getstate__(self) -> dict[str, Any]:
        # As in `JobSearcher`.
        return {}


class JobTrial(tune.Trainable):
    """One job as a Tune trial; its process is used again for the next job, of any kind."""

    # `tune.with_parameters` adds arguments to setup.
    def setup(  # type: ignore[override]
        self, config: dict[str, Any], make_worker: MakeWorker
    ) -> None:
        self._worker = make_worker()
        self._events = self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._events = self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> Iterator[str | Reached | Ended]:
        return iter(self._worker(unpacked(config)))

    def step(self) -> dict[str, Any]:
        """The next event of the job, as a result of Tune's."""
        try:
            event = next(self._events)
        except StorageError as error:
            return {"stage": "failed", "not_saved": str(error), "done": True}
        if isinstance(event, Ended):
            stage = "done" if event.failure is None else "failed"
            return {"stage": stage, "failure": event.failure, "done": True}
        if isinstance(event, str):
            return {"stage": event, "done": False}
        # As text, since Tune flattens nested values.
        evaluation = canonical_json(event.evaluation.to_json())
        return {"stage": event.rung, "rung": event.rung, "evaluation": evaluation, "done": False}

    def __repr__(self) -> str:
        # Ray's dashboard shows it for the process, which runs many trials one after the other.
        return "nas-theseus trials"

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Does nothing: an interrupted trial runs again from its start."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Does nothing; see `save_checkpoint`."""


def trial_name(trial: Trial) -> str:
    """What Tune and its callbacks call a trial: the job in words."""
    return unpacked(trial.config).title


def packed(job: Job) -> dict[str, Any]:
    """A job as a trial's configuration: module and name of its class, and its plain values."""
    kind = type(job)
    return {f"{kind.__module__}:{kind.__qualname__}": job.to_json()}


def unpacked(config: Mapping[str, Any]) -> Job:
    """The inverse of `packed`."""
    ((place, data),) = config.items()
    module, _, name = place.partition(":")
    job: Job = getattr(import_module(module), name).from_json(data)
    return job

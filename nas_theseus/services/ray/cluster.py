"""Ray Tune: jobs of any kind as trials, resources, retries; never a proposal of its own."""

from __future__ import annotations

import gc
import json
import logging
import os
from collections import Counter
from collections.abc import Callable, Generator, Mapping
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, TypeVar

from nas_theseus.errors import ServiceError, StorageError, TheseusError
from nas_theseus.services.ray.resources import of_trial, refuse_too_small, room
from nas_theseus.values.architecture import Architecture
from nas_theseus.values.ids import canonical_json
from nas_theseus.values.outcomes import Evaluation, Reached
from nas_theseus.values.settings import SearchSettings

# Read by Ray when it is imported: its per-trial CSV, JSON and TensorBoard files are not wanted
# (evaluations/ and MLflow keep the results), nor its reports to its makers or its own table.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ctrl-C ends the search at once; Tune's own handler would tell half-done trials as ended.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# A space file's relative paths mean the same in a worker as in the driver.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

import ray
from ray import tune
from ray.autoscaler.sdk import request_resources
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher

# A worker imports this module, and torch only with the work that needs it.
if TYPE_CHECKING:
    from ray.tune.execution.tune_controller import TuneController
    from ray.tune.experiment import Trial

    from nas_theseus.library.block_key import BlockKey
    from nas_theseus.stitch.cells import Endpoint

# Set by Ray for the driver of a job that was submitted.
_IN_RAY_JOB = "RAY_JOB_CONFIG_JSON_ENV_VAR"
# What one trial does: convert a block into the library, evaluate an architecture, or stitch a
# sender into all its receivers.
Job: TypeAlias = "BlockKey | Architecture | Endpoint"
# Where a worker finds a kind of job; imported with the first of it.
_MODULES = {
    "BlockKey": "nas_theseus.library.block_key",
    "Architecture": "nas_theseus.values.architecture",
    "Endpoint": "nas_theseus.stitch.cells",
}


AnyJob = TypeVar("AnyJob", bound=Job)
GivenJob = TypeVar("GivenJob", bound=Job, contravariant=True)


class Jobs(Protocol[AnyJob]):
    """Where the Searcher gets its trials from and tells their ends to; called in one thread."""

    def next(self) -> AnyJob | None:
        """The next job; None when there will be no more (asked again while others run)."""

    def reported(self, job: AnyJob, stage: str) -> None:
        """A running job told where it is."""

    def reached(self, reached: Reached) -> bool:
        """Whether an architecture goes on from a rung; if not, its outcome is kept by then."""

    def ended(self, job: AnyJob, failure: str | None) -> None:
        """A job's trial ended.

        Args:
            failure: why it failed, where its worker could say so or died more often than allowed;
                what the worker kept as a file counts before it.
        """


class WorkerRun(Protocol[GivenJob]):
    """What a worker process does with a job: a step at a time, keeping the outcome itself."""

    def __call__(self, job: GivenJob) -> Generator[str | Reached, None, str | None]:
        """Yields the stage it is in or a rung, where it may be left for good.

        Returns why it failed, or None, after it kept its outcome.

        Raises:
            StorageError: what it made cannot be kept, which ends the search: another trial could
                not keep its own either.
        """


class JobSearcher(Searcher):
    """A Tune Searcher that hands out jobs; proposals are made elsewhere.

    It also runs a job again whose worker died: Tune's own retries leave out a trial that dies
    while its actor is being set up or taken over from another trial.
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
            # While a job runs it may have to be run again, and FINISHED is for good.
            return None if self._running else str(Searcher.FINISHED)
        self._running[trial_id] = job
        return {type(job).__name__: job.to_json()}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        if trial_id in self._running and "stage" in result:
            self._jobs.reported(self._running[trial_id], result["stage"])

    def on_trial_complete(
        self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False
    ) -> None:
        if self._stopped is not None:
            # Tune takes what is raised here for the trial's own error, and tells its end again.
            raise self._stopped
        try:
            self._end(self._running.pop(trial_id), result or {}, error)
        except TheseusError as stopped:
            self._stopped = stopped
            raise

    def _end(self, job: Job, result: Mapping[str, Any], error: bool) -> None:
        if unkept := result.get("unkept"):
            # Told to nobody: the same job comes first when the search goes on.
            raise StorageError(f"{unkept}; then the same command goes on from here")
        if error:
            self._failures[job.id] += 1
            if self._failures[job.id] <= self._max_failures:
                self._jobs.reported(job, "again")
                self._again.append(job)
                return
        died = f"its worker died {self._failures[job.id]} times"
        self._jobs.ended(job, died if error else result.get("failure"))

    def __getstate__(self) -> dict[str, Any]:
        # Tune pickles its settings for a restore that is never used; what runs here stays here.
        return {}

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study is the truth of proposals, and Tune's restore is never used."""
        Path(checkpoint_path).touch()

    def restore(self, checkpoint_path: str) -> None:
        """Nothing; see `save`."""


class RungScheduler(FIFOScheduler):
    """A Tune scheduler that stops an architecture's trial at a rung, when the jobs say so."""

    def __init__(self, jobs: Jobs[Any]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._jobs = jobs

    def on_trial_result(
        self, tune_controller: TuneController, trial: Trial, result: dict[str, Any]
    ) -> str:
        if "rung" not in result:
            return TrialScheduler.CONTINUE
        evaluation = Evaluation.from_json(json.loads(result["evaluation"]))
        goes_on = self._jobs.reached(Reached(result["rung"], evaluation))
        return TrialScheduler.CONTINUE if goes_on else TrialScheduler.STOP

    def __getstate__(self) -> dict[str, Any]:
        # As the Searcher's.
        return {}


class JobTrial(tune.Trainable):
    """One job as a Tune trial; the process is used again for the next one, of any kind."""

    # `tune.with_parameters` adds arguments to setup.
    def setup(  # type: ignore[override]
        self, config: dict[str, Any], make_run: Callable[[], WorkerRun[Any]]
    ) -> None:
        self._run = make_run()
        self._begin(config)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self._begin(new_config)
        return True

    def _begin(self, config: dict[str, Any]) -> None:
        ((kind, data),) = config.items()
        self._steps = self._run(getattr(import_module(_MODULES[kind]), kind).from_json(data))

    def step(self) -> dict[str, Any]:
        try:
            step = next(self._steps)
        except StopIteration as end:
            stage = "done" if end.value is None else "failed"
            return {"stage": stage, "failure": end.value, "done": True}
        except StorageError as error:
            return {"stage": "failed", "unkept": str(error), "done": True}
        if isinstance(step, str):
            return {"stage": step, "done": False}
        # As text: Tune flattens what is nested.
        evaluation = canonical_json(step.evaluation.to_json())
        return {"stage": step.rung, "rung": step.rung, "evaluation": evaluation, "done": False}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing: an interrupted trial runs again from its start."""

    def load_checkpoint(self, checkpoint: Any) -> None:
        """Nothing; see `save_checkpoint`."""


def connect(settings: SearchSettings, log: Path, sources: Path | None = None) -> None:
    """Start Ray on this machine, on loopback, or join the cluster at ``settings.address``.

    Ray's own messages go to ``<log>/ray.log`` and Ray's session folder, not to the terminal.

    Args:
        sources: a folder whose modules the workers are to import; what else it holds stays here.

    Raises:
        ServiceError: the cluster cannot be reached, or lacks what one trial asks for.
    """
    _divert_logging(log / "ray.log")
    try:
        if settings.address is None:
            cpus = max(settings.cpus_per_trial * (settings.parallel or 1), os.cpu_count() or 1)
            ray.init(
                address="local",
                num_cpus=int(cpus),
                include_dashboard=False,
                log_to_driver=False,
                # Ray puts the machine's outward address in place of 127.0.0.1; this one stays.
                _node_ip_address="127.0.0.2",
            )
        else:
            ray.init(
                address=settings.address, log_to_driver=False, runtime_env=_runtime_env(sources)
            )
    except Exception as error:  # Ray raises many kinds here, OSError to RuntimeError
        if settings.address is None:
            what = "started"
            remedy = "The same command tries again; on a busy machine wait until it is less so"
        else:
            what = f"reached at {settings.address}"
            remedy = "Check the address (ray status), or leave --address out to run on this machine"
        raise ServiceError(f"Ray cannot be {what}: {str(error).rstrip('.')}. {remedy}") from error
    trial = of_trial(settings)
    try:
        refuse_too_small(_nodes(), trial)
    except ServiceError:
        disconnect()
        raise
    if settings.address is not None and settings.parallel is not None:
        # An autoscaler starts nodes for them; where there is none, nothing happens.
        request_resources(bundles=[trial] * settings.parallel)


def _nodes() -> list[dict[str, Any]]:
    return [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


def _runtime_env(sources: Path | None) -> dict[str, Any]:
    """What travels to every node: the user's modules, unless a Ray job has its own folder."""
    environment: dict[str, Any] = {"env_vars": {"RAY_CHDIR_TO_TRIAL_DIR": "0"}}
    if sources is not None and _IN_RAY_JOB not in os.environ:
        packages = [path.parent.name for path in sources.glob("*/__init__.py")]
        # As in .gitignore: all but what can be imported. Results and data may lie beside it. The
        # folder itself is asked for, too, as "."; where it is left out, nothing travels.
        chosen = ["/*", "!/.", "!/*.py", *(f"!/{name}" for name in packages if name.isidentifier())]
        environment |= {"working_dir": str(sources), "excludes": [*chosen, "__pycache__"]}
    return environment


def check_device(settings: SearchSettings) -> None:
    """Refuse to start on this machine with cores or GPUs that it does not have.

    Raises:
        ServiceError: a trial asks for more cores than there are, or for GPUs and torch sees none.
    """
    if settings.address is not None:
        return
    import torch

    cores = os.cpu_count() or 1
    if settings.cpus_per_trial > cores:
        # Ray would believe it, and start a process for every core that it was told of.
        raise ServiceError(
            f"one trial asks for {settings.cpus_per_trial:g} CPU cores, this machine has {cores}; "
            "lower --cpus-per-trial, or join a cluster that has them with --address"
        )
    if settings.gpus_per_trial > 0 and not torch.cuda.is_available():
        raise ServiceError(
            f"one trial asks for {settings.gpus_per_trial:g} GPU, but torch sees none on this "
            "machine; leave --gpus-per-trial out, or join a cluster that has some with --address"
        )


def disconnect() -> None:
    """End what `connect` began; nodes that an autoscaler started for it may go."""
    if ray.is_initialized():
        with suppress(Exception):  # the cluster may be gone
            request_resources(bundles=[])
    # A handle that another thread's garbage collection frees while Ray shuts down ends the process.
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        ray.shutdown()
    finally:
        if collecting:
            gc.enable()


def slots(settings: SearchSettings) -> int:
    """How many trials run at once: ``settings.parallel``, or what the cluster has room for."""
    if settings.parallel is not None:
        return settings.parallel
    trial = of_trial(settings)
    return max(1, sum(room(node, trial) for node in _nodes()))


def run_jobs(
    jobs: Jobs[Any],
    make_run: Callable[[], WorkerRun[Any]],
    settings: SearchSettings,
    folder: Path,
) -> None:
    """Run jobs until there are no more; an interrupt ends the trials and is raised again.

    Args:
        make_run: called once in each worker process; must pickle.
        folder: Tune's own files; nothing in them is needed afterwards.

    Raises:
        ServiceError: Tune itself stopped.
    """
    parameters = tune.with_parameters(JobTrial, make_run=make_run)
    trainable = tune.with_resources(parameters, of_trial(settings))
    tuner = tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            search_alg=JobSearcher(jobs, settings.max_failures),
            scheduler=RungScheduler(jobs),
            num_samples=-1,
            max_concurrent_trials=slots(settings),
            reuse_actors=True,
            trial_dirname_creator=lambda trial: str(trial.trial_id),
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=str(folder.resolve()),
            verbose=0,
        ),
    )
    try:
        tuner.fit()
    except (TheseusError, KeyboardInterrupt):
        raise
    except Exception as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, TheseusError):
                raise cause from None  # Tune's own has our traceback as its text
            cause = cause.__cause__ or cause.__context__
        raise ServiceError(f"Ray Tune stopped: {type(error).__name__}: {error}") from error


class _Log(logging.FileHandler):
    """A file that may miss messages: a full disk is told by what has to be kept."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Nothing."""


def _divert_logging(path: Path) -> None:
    """Python messages of Ray's driver side go to a file; Ray gives several loggers a handler."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = _Log(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    for name in [*logging.root.manager.loggerDict, "ray"]:
        if name.partition(".")[0] == "ray":
            logger = logging.getLogger(name)
            for earlier in logger.handlers:
                if isinstance(earlier, logging.FileHandler):
                    earlier.close()  # that of the search before this one in the process
            logger.handlers = [handler] if name == "ray" else []
            logger.propagate = name != "ray"
    logging.getLogger("ray").setLevel(logging.INFO)

"""Ray Tune as an executor: on this machine, or on a cluster that it joins."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray._private import ray_constants
from ray.autoscaler.sdk import request_resources

from nas_theseus.errors import ServiceError, TheseusError
from nas_theseus.searches.execution import Jobs, MakeWorker, Promotes
from nas_theseus.services.ray.head import watched
from nas_theseus.services.ray.log import divert_logging
from nas_theseus.services.ray.nodes import alive, check_nodes
from nas_theseus.services.ray.requests import refuse_too_small, request_of, room, selected
from nas_theseus.services.ray.runtime_environment import runtime_environment
from nas_theseus.services.ray.tune import JobSearcher, JobTrial, RungScheduler, trial_name
from nas_theseus.services.ray.tune_callbacks import refuse_callbacks
from nas_theseus.values.settings import ExecutorSettings


@contextmanager
def on_loopback() -> Iterator[str]:
    """The address of a Ray that listens on loopback alone.

    Ray's processes do so only at 127.0.0.1, and listen on all addresses at any other, 127.0.0.2
    included. Where Ray has clusters, which it calls all systems but macOS and Windows, it replaces
    127.0.0.1 by the machine's public address; so it is told that it has none here.
    """
    variable, before = ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR, ray_constants.ENABLE_RAY_CLUSTER
    said = os.environ.get(variable)
    ray_constants.ENABLE_RAY_CLUSTER, os.environ[variable] = False, "0"
    try:
        yield "127.0.0.1"
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(variable)
        if said is not None:
            os.environ[variable] = said


class RayExecutor:
    """Runs jobs as trials of Ray Tune.

    Args:
        settings: of one launch.
        log: folder for Ray's messages and Tune's own files, on a path that all nodes share.
    """

    def __init__(self, settings: ExecutorSettings, log: Path) -> None:
        self._settings = settings
        self._log = log
        self._trial = request_of(settings.resources)
        self._labels = settings.resources.label_selector
        self._while_open = ExitStack()

    @property
    def slots(self) -> int:
        """``settings.parallel``, or as many trials as the cluster has room for."""
        if self._settings.parallel is not None:
            return self._settings.parallel
        nodes = [node for node in alive() if selected(node, self._labels)]
        return max(1, sum(room(node, self._trial) for node in nodes))

    def check(self) -> None:
        """Refuse to start on this machine with cores or GPUs that it does not have.

        Raises:
            ServiceError: a trial asks for more cores than there are, or for GPUs and torch sees
                none; the runtime environment or a callback cannot be used.
        """
        refuse_callbacks(self._settings.callbacks)
        runtime_environment(self._settings.runtime_env)
        if self._settings.address is not None:
            return
        import torch  # takes a second to import, and a worker may not need it yet

        resources, cores = self._settings.resources, os.cpu_count() or 1
        if resources.cpus > cores:
            # Ray would not notice, and would start a process for every core that it was given.
            raise ServiceError(
                f"one trial asks for {resources.cpus:g} CPU cores, this machine has {cores}; "
                "lower --cpus-per-trial, or join a cluster that has them with --address"
            )
        if resources.gpus > 0 and not torch.cuda.is_available():
            raise ServiceError(
                f"one trial asks for {resources.gpus:g} GPU, but torch sees none on this "
                "machine; leave --gpus-per-trial out, or join a cluster that has some with "
                "--address"
            )

    def open(self) -> None:
        """Start Ray on this machine, on loopback, or join the cluster at ``settings.address``.

        Ray's own messages go to ``<log>/ray.log`` and Ray's session folder, not to the terminal.

        Raises:
            ServiceError: the cluster cannot be reached, lacks what one trial asks for, or has
                nodes that do not see the storage or have other versions.
        """
        divert_logging(self._log / "ray.log")
        address = self._settings.address
        try:
            if address is None:
                self._start()
            else:
                environment = runtime_environment(self._settings.runtime_env)
                ray.init(address=address, log_to_driver=False, runtime_env=environment)
        except Exception as error:  # Ray raises many kinds here, OSError to RuntimeError
            raise _unreachable(address, error) from error
        try:
            self._while_open.enter_context(watched(ray.get_runtime_context().gcs_address))
            refuse_too_small(alive(), self._trial, self._labels)
            if address is not None:
                check_nodes(self._log)
                refuse_too_small(alive(), self._trial, self._labels)  # some may have died
        except BaseException:
            self.close()
            raise
        if address is not None and self._settings.parallel is not None:
            # An autoscaler starts nodes for them; without one, nothing happens.
            count = self._settings.parallel
            labels = [self._labels] * count if self._labels else None
            request_resources(bundles=[self._trial] * count, bundle_label_selectors=labels)

    def _start(self) -> None:
        given = self._settings.runtime_env
        wanted = self._settings.resources.cpus * (self._settings.parallel or 1)
        with on_loopback() as loopback:
            ray.init(
                address="local",
                num_cpus=int(max(wanted, os.cpu_count() or 1)),
                include_dashboard=False,
                log_to_driver=False,
                runtime_env=None if given is None else runtime_environment(given),
                _node_ip_address=loopback,
            )

    def run(
        self, jobs: Jobs[Any], make_worker: MakeWorker, promotes: Promotes | None = None
    ) -> None:
        """As `Executor.run`; an interrupt ends the trials and is raised again."""
        parameters = tune.with_parameters(JobTrial, make_worker=make_worker)
        # Tune hands these options on to the placement group of each trial.
        where: dict[str, Any] = {"bundle_label_selector": [self._labels]} if self._labels else {}
        resources = tune.PlacementGroupFactory([self._trial], **where)
        tuner = tune.Tuner(
            tune.with_resources(parameters, resources),
            tune_config=tune.TuneConfig(
                search_alg=JobSearcher(jobs, self._settings.max_failures),
                scheduler=None if promotes is None else RungScheduler(promotes),
                num_samples=-1,
                max_concurrent_trials=self.slots,
                reuse_actors=True,
                trial_name_creator=trial_name,
                trial_dirname_creator=lambda trial: str(trial.trial_id),
            ),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(self._log.resolve()),
                verbose=0,
                callbacks=list(self._settings.callbacks),
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
                    raise cause from None  # the text of Tune's own error is our traceback
                cause = cause.__cause__ or cause.__context__
            raise ServiceError(f"Ray Tune stopped: {type(error).__name__}: {error}") from error

    def close(self) -> None:
        """Leave or stop Ray; nodes that an autoscaler started for this search are released."""
        self._while_open.close()
        if ray.is_initialized():
            with suppress(Exception):  # the cluster may be gone
                request_resources(bundles=[])
        # If garbage collection in another thread frees a handle while Ray shuts down, the process
        # dies.
        gc.collect()
        collecting = gc.isenabled()
        gc.disable()
        try:
            ray.shutdown()
        finally:
            if collecting:
                gc.enable()


def _unreachable(address: str | None, error: Exception) -> ServiceError:
    if address is None:
        what = "started"
        remedy = (
            "Run the same command again; on a busy machine wait until it is less so, or run the "
            "trials one after the other without Ray: --executor inline"
        )
    else:
        what = f"reached at {address}"
        remedy = "Check the address (ray status), or leave --address out to run on this machine"
    return ServiceError(f"Ray cannot be {what}: {str(error).rstrip('.')}. {remedy}")

"""Use of CPU, memory, disk, network and GPU by the driver's machine, sampled by MLflow itself."""

from __future__ import annotations

import importlib.util
import logging
import os
import threading
from typing import Any

from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

_log = logging.getLogger(__name__)

# MLflow's own switch; here it is on unless it says no.
SWITCH = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"
_OFF = ("0", "false", "no", "off")
# A server that hangs must not hold the search's end: what is left of the thread is a daemon.
_STOP_LIMIT_S = 2.0


class SystemMetrics:
    """System metrics of one run, from `start` to `stop`.

    MLflow's thread writes them, not the outbox: a sample that a server misses is not repeated, and
    its thread ends when the server does not answer.
    """

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._monitor: Any = None

    def start(self, run_id: str) -> None:
        """Begin to sample, after the last step that the run has; nothing if that is not possible.

        MLflow needs the package psutil, and nvidia-ml-py for GPUs.
        """
        if os.environ.get(SWITCH, "").lower() in _OFF or self._monitor is not None:
            return
        if importlib.util.find_spec("psutil") is None:
            _log.info("no system metrics: psutil is not installed")
            return
        try:
            # MLflow's class has no types.
            monitor: Any = SystemMetricsMonitor(  # type: ignore[no-untyped-call]
                run_id, resume_logging=True, tracking_uri=self._uri
            )
            monitor.start()
        except Exception as error:  # they are worth no search
            _log.warning("no system metrics: %s: %s", type(error).__name__, error)
            return
        self._monitor = monitor

    def stop(self) -> None:
        """Stop sampling, and write what was sampled; waits for seconds at most."""
        if self._monitor is not None:
            ending = threading.Thread(target=self._monitor.finish, daemon=True)
            ending.start()
            ending.join(_STOP_LIMIT_S)
            self._monitor = None

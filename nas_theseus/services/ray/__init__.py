"""Ray Tune: jobs of any kind as trials, resources, retries; never a proposal of its own."""

import os

# Ray reads these when it is imported, and this package is imported before any module of it. Ray's
# per-trial CSV, JSON and TensorBoard files are not wanted (evaluations/ and the trackers have the
# results), nor its usage statistics or its own table.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ctrl-C ends the search at once; Tune's own handler would report half-done trials as finished.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# A space file's relative paths mean the same in a worker as in the driver.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

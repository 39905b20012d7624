"""Ray Tune: runs jobs of any kind as trials, with resources and retries; it proposes nothing."""

import os

# Ray reads these when it is imported, which is after this package. Turned off: its CSV, JSON and
# TensorBoard files of each trial (evaluations/ and the trackers have the results), its usage
# statistics and its own table.
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
# Ctrl-C ends the search at once; Tune's own handler would report half-done trials as finished.
os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
# So that relative paths in a space file mean the same in a worker as in the driver.
os.environ.setdefault("RAY_CHDIR_TO_TRIAL_DIR", "0")

"""Ray Tune: runs jobs in parallel."""

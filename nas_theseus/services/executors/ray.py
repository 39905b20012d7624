"""Jobs as trials of Ray Tune, on this machine or on a cluster."""

from nas_theseus.services.ray.executor import RayExecutor

MEMBER = RayExecutor

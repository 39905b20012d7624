"""Optuna's Gaussian process."""

from functools import partial

from optuna.samplers import GPSampler

from nas_theseus.services.optuna.sampler import Sampler, seeded
from nas_theseus.services.optuna.window import Thinned

# A proposal takes longer with the cube of the trials that it looks at.
MEMBER = Sampler(seeded(GPSampler), partial(Thinned, 200))

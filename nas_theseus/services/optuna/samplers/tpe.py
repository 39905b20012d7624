"""Optuna's tree-structured Parzen estimator, over all genes together."""

from functools import partial

from nas_theseus.services.optuna.private import RememberingTPESampler
from nas_theseus.services.optuna.sampler import Sampler, seeded
from nas_theseus.services.optuna.window import Thinned

# A proposal takes longer in proportion to the trials that it looks at; with 1,000 instead of 2,000
# fronts were worse in some worlds (benchmarks/sampler_window.py).
MEMBER = Sampler(
    seeded(RememberingTPESampler, multivariate=True, constant_liar=True), partial(Thinned, 2000)
)

"""Optuna's NSGA-II, a genetic algorithm."""

from functools import partial

from optuna.samplers import NSGAIISampler

from nas_theseus.services.optuna.sampler import Sampler, seeded
from nas_theseus.services.optuna.window import Generations

MEMBER = Sampler(seeded(NSGAIISampler, population_size=20), partial(Generations, NSGAIISampler))

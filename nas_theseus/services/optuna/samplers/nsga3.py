"""Optuna's NSGA-III, a genetic algorithm."""

from functools import partial

from optuna.samplers import NSGAIIISampler

from nas_theseus.services.optuna.sampler import Sampler, seeded
from nas_theseus.services.optuna.window import Generations

MEMBER = Sampler(seeded(NSGAIIISampler, population_size=20), partial(Generations, NSGAIIISampler))

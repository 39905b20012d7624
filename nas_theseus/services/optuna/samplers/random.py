"""Proposals at random."""

from optuna.samplers import RandomSampler

from nas_theseus.services.optuna.sampler import Sampler, seeded

MEMBER = Sampler(seeded(RandomSampler))

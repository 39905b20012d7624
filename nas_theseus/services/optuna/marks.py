"""Marks that a study sets on its trials, as user attributes, for samplers, windows and people."""

from __future__ import annotations

# Why a trial was refused before it ran, or failed.
REASON = "theseus:reason"
# The quality is predicted, not measured; the value is the rung that stopped the trial.
ESTIMATED = "theseus:estimated"
# Measured costs, which need not be objectives.
COSTS = "theseus:costs"
# Quality at the rungs that the trial reached.
RUNGS = "theseus:rungs"
# Id of the architecture that the genes encode.
ARCHITECTURE = "theseus:architecture"
# Left by a driver that died between two genes; the same proposal was made again as another trial.
ABANDONED = "theseus:abandoned"
# The proposed architecture had already been proposed.
REPEATED = "theseus:repeated"

# For people, who see them in optuna-dashboard: the architecture, and how far the limits are kept.
WORDS = "architecture"
LIMITS = "limits"

"""Optuna: the study and its samplers."""

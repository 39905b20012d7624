"""Measurements; each writes results/<name>.json itself."""

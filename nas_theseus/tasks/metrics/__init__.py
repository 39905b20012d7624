"""Metrics by name, one file each: `MEMBER` says the direction, the targets, and makes the meter.

torchmetrics takes seconds to import, so a file imports it only where a meter is made.
"""

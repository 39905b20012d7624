"""Metrics by name, one file each: `MEMBER` has the direction, the targets, and makes meters.

torchmetrics takes seconds to import, so a file imports it only when a meter is made.
"""

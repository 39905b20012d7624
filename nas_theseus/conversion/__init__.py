"""Conversion of a guide, block by block; needs only torch."""

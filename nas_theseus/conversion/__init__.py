"""Conversion of a guide, block by block: needs torch alone."""

"""Samplers of proposals, one file each."""

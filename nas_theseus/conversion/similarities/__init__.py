"""Similarities of two sets of features, one file each."""

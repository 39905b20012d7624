"""Formats of found networks, one file each."""

"""Executors, which run the jobs of a search, one file each."""

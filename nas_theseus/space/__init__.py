"""The search space: loaded from one Python file, checked, and encoded as a genome."""

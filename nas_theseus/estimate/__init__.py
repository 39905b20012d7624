"""Predicted quality: an additive estimate, its exact front, proposals, and rungs to stop at."""

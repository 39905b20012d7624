"""Networks joined by stitches: comparison of representations, and stitchable networks."""

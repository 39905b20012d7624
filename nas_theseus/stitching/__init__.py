"""Networks joined by stitches: which representations fit, and networks that switch their cost."""

"""The content-addressed store of converted blocks."""

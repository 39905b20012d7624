"""Values that pass between rooms."""

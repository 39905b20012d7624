"""Quality foreseen: an additive model that learns, its exact front, proposals, rungs."""

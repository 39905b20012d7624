"""How alike two sets of features are: one file a similarity."""

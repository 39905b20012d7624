"""The costs that a search may name, one file each; `MEMBER` is the cost."""

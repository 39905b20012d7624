"""The costs that a search can name, one file each; `MEMBER` is the cost."""

"""The guide: a network cut into an ordered chain of parts."""

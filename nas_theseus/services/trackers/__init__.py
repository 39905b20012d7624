"""Trackers: each module records a search in one place; see `nas_theseus.searches.trackers`."""

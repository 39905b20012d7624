"""Trackers, one file each; see `nas_theseus.searches.trackers`."""

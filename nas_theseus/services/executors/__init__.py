"""Those who run the jobs of a search, one file each."""

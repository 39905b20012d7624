"""What the commands of `nas_theseus.cli` do, and what a person sees of it."""

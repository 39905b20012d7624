"""What the commands of `nas_theseus.cli.app` do, and what a person sees of it."""

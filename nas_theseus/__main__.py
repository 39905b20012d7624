"""``python -m nas_theseus``: the command line."""

from nas_theseus.cli.app import main

main()

"""First space files that ``nas-theseus new`` writes; one file a kind.

Each is a space file that runs as it stands. `new` writes its text without the last line, which
makes it a member of the register, and fills in constants such as MODEL.
"""

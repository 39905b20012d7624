"""What ``nas-theseus doctor`` looks at; one file a check, which imports what it checks when called."""

"""What ``nas-theseus doctor`` looks at; one file a check, which imports late what it checks."""

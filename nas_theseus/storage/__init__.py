"""Atomic file writes, storage addresses, and redaction of secrets."""

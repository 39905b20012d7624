"""Files written whole, addresses, redaction."""

"""Where pretrained vision networks come from; one file a source."""

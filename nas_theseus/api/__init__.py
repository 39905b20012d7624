"""What Python users and the command line call."""

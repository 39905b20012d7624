"""What is searched, read from one Python file."""

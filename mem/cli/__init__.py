"""Argument parsing for the command line. Each command imports the modules that it needs only when it runs."""

"""Argument parsing for the command line. Each command imports its modules when it runs."""

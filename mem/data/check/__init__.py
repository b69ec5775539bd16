"""Checks of a dataset before its conversion: counts, labels, files and their contents."""

"""Checks of a data set before its conversion: counts, labels, files and their contents."""

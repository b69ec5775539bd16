"""Checks of a data set before it is converted: counts, labels, files and their contents."""

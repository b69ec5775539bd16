"""Estimated cost of a study before anything has run: FLOPs, memory, disk, hours, and the longest chain of runs."""

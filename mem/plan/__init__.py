"""Cost estimates for a study before it runs: FLOPs, memory, disk space, hours, and the longest chain of runs."""

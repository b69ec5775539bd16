"""Checks a SLURM site before the first run: python -m cluster.doctor --partition P --account A.

Every check prints one line: the result and, if something is wrong, what to do about it.
"""

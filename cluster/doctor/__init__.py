"""Check a SLURM site before the first run: `python -m cluster.doctor --partition P --account A`.

Each check prints one line with its result and, if it finds a problem, how to fix it.
"""

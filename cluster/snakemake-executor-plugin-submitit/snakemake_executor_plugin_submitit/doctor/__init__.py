"""Check a SLURM site before the first run: `python -m snakemake_executor_plugin_submitit.doctor --partition P`.

Each check prints one line with its result and, if it finds a problem, how to fix it.
"""

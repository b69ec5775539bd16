"""Check a SLURM site: `python -m cluster.doctor`, which is `mem doctor` in a checkout."""

from __future__ import annotations

import sys

from snakemake_executor_plugin_submitit.doctor.__main__ import main

if __name__ == "__main__":
    sys.exit(main(program="python -m cluster.doctor"))

"""Check for environment variables that change SLURM's commands."""

from __future__ import annotations

import os
from collections.abc import Iterator

from snakemake_executor_plugin_submitit.doctor.check_results import CheckResult, ok, warn
from snakemake_executor_plugin_submitit.slurm_environment import default_variables, ignored_variables


def check_environment() -> Iterator[CheckResult]:
    """Name the variables that change the options of jobs, or that work for SLURM's commands but not for the plugin."""
    defaults, ignored = default_variables(os.environ), ignored_variables(os.environ)
    found, advice = [], []
    if defaults:
        found.append(f"{', '.join(defaults)} applies to every job that does not set the same option itself")
        advice.append("unset them if jobs should have SLURM's defaults")
    if ignored:
        found.append(f"the plugin ignores {', '.join(ignored)}")
        advice.append("set options for jobs in the profile (submitit-partition, submitit-extra, ...) or as resources")
    if found:
        yield warn("environment", f"variables for SLURM's commands are set: {'; '.join(found)}", "; ".join(advice))
    else:
        yield ok("environment", "no variable changes the options of SLURM's commands")

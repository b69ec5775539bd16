"""Environment variables for SLURM's client commands.

SLURM's commands read options from environment variables. Options in `SBATCH_*` variables take precedence over those in
a job script, `SQUEUE_*` and `SACCT_*` variables filter and reformat query output, and `SCANCEL_*` variables restrict
cancellation. `SLURM_*` variables describe the surrounding job if the workflow process itself runs in a SLURM job.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

_SELECT_CLUSTER = ("SLURM_CONF", "SLURM_JWT", "SLURM_CLUSTERS")
"""`SLURM_*` variables that select the SLURM cluster or authenticate the user."""
_QUERIES = ("SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_")
_CONTROLLED = {
    f"SBATCH_{name}"
    for name in (
        "ARRAY_INX", "CLUSTERS", "ERROR", "EXPORT", "GET_USER_ENV", "INPUT", "JOB_NAME", "NO_REQUEUE", "OPEN_MODE",
        "OUTPUT", "REQUEUE", "SIGNAL", "WAIT",
    )
}  # fmt: skip
"""`SBATCH_*` variables for options that the plugin controls."""
_DEFAULTS = {
    "SBATCH_ACCOUNT": {"account"},
    "SBATCH_COMMENT": {"comment"},
    "SBATCH_CONSTRAINT": {"constraint"},
    "SBATCH_GPUS": {"gpus-per-node", "gres"},
    "SBATCH_GPUS_PER_NODE": {"gpus-per-node", "gres"},
    "SBATCH_GPUS_PER_TASK": {"gpus-per-node", "gres"},
    "SBATCH_GRES": {"gres", "gpus-per-node"},
    "SBATCH_MEM_PER_CPU": {"mem", "mem-per-cpu"},
    "SBATCH_MEM_PER_GPU": {"mem", "mem-per-cpu"},
    "SBATCH_MEM_PER_NODE": {"mem", "mem-per-cpu"},
    "SBATCH_PARTITION": {"partition"},
    "SBATCH_QOS": {"qos"},
    "SBATCH_RESERVATION": {"reservation"},
    "SBATCH_TIMELIMIT": {"time"},
}
"""`SBATCH_*` variables that apply to jobs without any of the given options."""


def client_environment() -> dict[str, str]:
    """Return the environment for SLURM's commands, without variables that change their options or their output."""
    misleading = ("SLURM_", "SBATCH_", *_QUERIES)
    return {name: v for name, v in os.environ.items() if name in _SELECT_CLUSTER or not name.startswith(misleading)}


def submission_environment(script: str, arguments: Sequence[str]) -> dict[str, str]:
    """Return the environment for sbatch. `SBATCH_*` variables remain unless the plugin or the job sets the option.

    Args:
        script: Text of the job script.
        arguments: Options for sbatch, such as `--licenses=one`.
    """
    given = set(re.findall(r"^#SBATCH --([\w-]+)", script, re.MULTILINE))
    given |= {word[2:].split("=", 1)[0] for word in arguments if word.startswith("--")}
    wanted = (name for name in os.environ if name.startswith("SBATCH_") and name not in _CONTROLLED)
    kept = {name: os.environ[name] for name in wanted if not given & _DEFAULTS.get(name, set())}
    return client_environment() | kept


def ignored_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the names of variables that would change SLURM's commands, and that the plugin never passes to them."""
    return sorted(name for name in environment if name in _CONTROLLED or name.startswith(_QUERIES))


def default_variables(environment: Mapping[str, str]) -> list[str]:
    """Return the names of variables whose options apply to every job that does not set the same option itself."""
    return sorted(name for name in environment if name.startswith("SBATCH_") and name not in _CONTROLLED)

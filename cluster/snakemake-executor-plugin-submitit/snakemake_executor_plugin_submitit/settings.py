"""Plugin settings: `--submitit-NAME` on the command line, or `submitit-NAME:` in a profile."""

import os
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase, SharedFSUsage

_FILE_NAME_PATTERN = re.compile(r"%\d*[%AaJjNnstux]|\\")
"""Text that SLURM replaces in the names of output files, or that changes how it replaces such text."""
CLUSTERS = ("slurm", "local", "debug")

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    # Jobs inherit the environment through sbatch or from the workflow process. If declared variables were passed to
    # the command, they would be written to files, which could expose secrets.
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
    pass_group_args=True,
)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """Plugin settings. Some are site-wide defaults for rules that do not set the corresponding resource."""

    cluster: str = field(
        default="slurm",
        metadata={
            "help": "Where jobs run: on SLURM (slurm), as processes on this machine (local), or one after another "
            "inside the workflow process (debug).",
            "choices": list(CLUSTERS),
        },
    )
    account: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM account for jobs without the resource slurm_account.", "env_var": True},
    )
    partition: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM partition for jobs without the resource slurm_partition.", "env_var": True},
    )
    qos: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM quality of service for jobs without the resource qos.", "env_var": True},
    )
    constraint: Optional[str] = field(
        default=None,
        metadata={"help": "Required node features for jobs without the resource constraint.", "env_var": True},
    )
    reservation: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM reservation for all jobs.", "env_var": True},
    )
    extra: Optional[str] = field(
        default=None,
        metadata={"help": "Additional sbatch options for all jobs, as one string.", "env_var": True},
    )
    max_requeues: int = field(
        default=50,
        metadata={"help": "Maximum number of times a job is requeued on preemption or near its time limit."},
    )
    retries: int = field(
        default=2,
        metadata={
            "help": "Maximum number of times a job is resubmitted after failures that its code did not cause: with "
            "more memory after OUT_OF_MEMORY, with more time after TIMEOUT, on a different node after NODE_FAIL. For "
            "failures of the code, use Snakemake's --retries."
        },
    )
    memory_growth: float = field(
        default=2.0, metadata={"help": "Factor by which a job's requested memory is multiplied after OUT_OF_MEMORY."}
    )
    time_growth: float = field(
        default=2.0, metadata={"help": "Factor by which a job's time limit is multiplied after TIMEOUT."}
    )
    signal_delay_seconds: int = field(
        default=120,
        metadata={
            "help": "Number of seconds before the time limit at which a job is signalled to save. Saving must take "
            "less time than this."
        },
    )
    array_size: int = field(
        default=500,
        metadata={
            "help": "Maximum number of jobs in a SLURM array. The site's MaxArraySize also applies. With 1, each job "
            "is submitted separately."
        },
    )
    bundle_service: Optional[str] = field(
        default=None,
        metadata={
            "help": "Command that runs while the jobs of a bundle run. It prints one line VARIABLE=VALUE, which the "
            "jobs get as an environment variable, and ends when its standard input is closed.",
            "env_var": True,
        },
    )
    ports: str = field(
        default="20000-29999",
        metadata={"help": "Port range FIRST-LAST from which rank 0 of a multi-rank job chooses a free port."},
    )
    local_ranks: str = field(
        default="asked",
        metadata={
            "help": "Number of ranks on the local cluster. With `asked`, nodes x tasks as requested by the rule. With "
            "`gpus`, rules that request GPUs or several tasks run with one rank per visible GPU, or as a single "
            "process if no GPU is visible.",
            "choices": ["asked", "gpus"],
        },
    )
    inner_snakemake: bool = field(
        default=False,
        metadata={
            "help": "Start an inner Snakemake in every job. Without this option, jobs of plain shell rules run their "
            "shell command directly."
        },
    )
    logdir: Path = field(
        default=Path(".snakemake/submitit/logs"),
        metadata={
            "help": "Folder for the rank output of rules without a log. For other rules, the output is next to the log."
        },
    )

    def first_and_last_port(self) -> tuple[int, int]:
        """Parse the port range in `ports`.

        Raises:
            WorkflowError: The range is malformed.
        """
        found = re.fullmatch(r"(\d+)-(\d+)", self.ports)
        if not found or not 1024 <= int(found[1]) <= int(found[2]) <= 65535:
            raise WorkflowError(
                f"--submitit-ports {self.ports}: expected FIRST-LAST with 1024 <= FIRST <= LAST <= 65535, "
                "for example 20000-29999"
            )
        return int(found[1]), int(found[2])


def validate(settings: ExecutorSettings, shared_fs_usage: set[SharedFSUsage]) -> None:
    """Check the settings before any job is submitted.

    Raises:
        WorkflowError: A setting is invalid. The message names the setting and describes the fix.
    """
    if settings.cluster not in CLUSTERS:
        raise WorkflowError(f"--submitit-cluster {settings.cluster}: expected one of {', '.join(CLUSTERS)}")
    settings.first_and_last_port()
    for name, least in (
        ("max_requeues", 0),
        ("retries", 0),
        ("array_size", 1),
        ("signal_delay_seconds", 1),
        ("memory_growth", 1),
        ("time_growth", 1),
    ):
        value = getattr(settings, name)
        if value < least:
            raise WorkflowError(f"--submitit-{name.replace('_', '-')} {value}: expected at least {least}")
    if settings.cluster == "slurm":
        if found := _FILE_NAME_PATTERN.search(os.getcwd()):
            raise WorkflowError(
                f"{os.getcwd()}: jobs cannot run on SLURM in a folder whose path contains {found[0]}, because SLURM "
                "replaces this text in the paths of log files. Rename the folder, or use another one with --directory."
            )
        missing = [command for command in ("sbatch", "srun", "scancel", "squeue") if shutil.which(command) is None]
        if missing:
            raise WorkflowError(
                f"SLURM is not available on this machine: {', '.join(missing)} not found on PATH. Run snakemake on a "
                "login node, load the site's SLURM module, or use --submitit-cluster local."
            )
    unshared = {SharedFSUsage.PERSISTENCE, SharedFSUsage.INPUT_OUTPUT, SharedFSUsage.SOURCES} - set(shared_fs_usage)
    if unshared:
        raise WorkflowError(
            "The submitit executor requires a file system that this machine shares with all nodes. Add these values to "
            "--shared-fs-usage: " + ", ".join(sorted(usage.item_to_choice() for usage in unshared))
        )

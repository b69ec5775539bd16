"""Settings of the plugin: `--submitit-NAME` on the command line, `submitit-NAME:` in a profile."""

import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from snakemake_interface_common.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import CommonSettings, ExecutorSettingsBase, SharedFSUsage

CLUSTERS = ("slurm", "local", "debug")

common_settings = CommonSettings(
    non_local_exec=True,
    implies_no_shared_fs=False,
    job_deploy_sources=False,
    # sbatch and the local cluster hand the head's environment on; declarations would put secrets into files.
    pass_envvar_declarations_to_cmd=False,
    auto_deploy_default_storage_provider=False,
    init_seconds_before_status_checks=0,
    pass_group_args=True,
)


@dataclass
class ExecutorSettings(ExecutorSettingsBase):
    """How jobs are submitted. Site defaults hold where a rule has no resource of that name."""

    cluster: str = field(
        default="slurm",
        metadata={
            "help": "Where jobs run: slurm; local, ranks as processes of this machine; debug, one after another "
            "in the head's own process.",
            "choices": list(CLUSTERS),
        },
    )
    account: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM account of jobs without a resource slurm_account.", "env_var": True},
    )
    partition: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM partition of jobs without a resource slurm_partition.", "env_var": True},
    )
    qos: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM quality of service of jobs without a resource qos.", "env_var": True},
    )
    constraint: Optional[str] = field(
        default=None,
        metadata={"help": "Node features asked for by jobs without a resource constraint.", "env_var": True},
    )
    reservation: Optional[str] = field(
        default=None,
        metadata={"help": "SLURM reservation of all jobs.", "env_var": True},
    )
    extra: Optional[str] = field(
        default=None,
        metadata={"help": "More sbatch options, for all jobs, as one string.", "env_var": True},
    )
    max_requeues: int = field(
        default=50,
        metadata={"help": "How often one job may be requeued after preemption or at its time limit."},
    )
    retries: int = field(
        default=2,
        metadata={
            "help": "How often a job is submitted again for a reason that lies outside its code: more memory after "
            "OUT_OF_MEMORY, more time after TIMEOUT, another node after NODE_FAIL. Failures of the code are left to "
            "Snakemake's own --retries."
        },
    )
    memory_growth: float = field(
        default=2.0, metadata={"help": "Factor on the memory of a job that is submitted again after OUT_OF_MEMORY."}
    )
    time_growth: float = field(
        default=2.0, metadata={"help": "Factor on the runtime of a job that is submitted again after TIMEOUT."}
    )
    signal_delay_seconds: int = field(
        default=120,
        metadata={"help": "How long before its time limit a job is asked to save; all it may take to save."},
    )
    array_size: int = field(
        default=500,
        metadata={"help": "Most jobs of one SLURM array; 1 submits each job alone. Under the site's MaxArraySize."},
    )
    ports: str = field(
        default="20000-29999",
        metadata={"help": "Ports from which rank 0 of a job with several tasks takes a free one, as FIRST-LAST."},
    )
    local_ranks: str = field(
        default="asked",
        metadata={
            "help": "With the local cluster: asked, nodes x tasks as the rule says; gpus, a rule that asks for GPUs or "
            "for several tasks gets one rank per visible GPU, and a single process where there is none.",
            "choices": ["asked", "gpus"],
        },
    )
    inner_snakemake: bool = field(
        default=False,
        metadata={
            "help": "Start a Snakemake of its own in every job. Otherwise jobs of plain shell rules start their shell "
            "command at once."
        },
    )
    logdir: Path = field(
        default=Path(".snakemake/submitit/logs"),
        metadata={"help": "Where ranks write their output if the rule has no log; otherwise beside the log."},
    )

    def first_and_last_port(self) -> tuple[int, int]:
        """The range of `ports`.

        Raises:
            WorkflowError: It is none.
        """
        found = re.fullmatch(r"(\d+)-(\d+)", self.ports)
        if not found or not 1024 <= int(found[1]) <= int(found[2]) <= 65535:
            raise WorkflowError(
                f"--submitit-ports {self.ports}: expected FIRST-LAST with 1024 <= FIRST <= LAST <= 65535, "
                "for example 20000-29999"
            )
        return int(found[1]), int(found[2])


def validate(settings: ExecutorSettings, shared_fs_usage: set[SharedFSUsage]) -> None:
    """Refuse what cannot work, before anything is submitted.

    Raises:
        WorkflowError: Says which setting, and what to do.
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
        missing = [command for command in ("sbatch", "srun", "scancel", "squeue") if shutil.which(command) is None]
        if missing:
            raise WorkflowError(
                f"This machine has no SLURM: {', '.join(missing)} not found on PATH. Run snakemake where jobs can be "
                "submitted (a login node), load the site's SLURM module, or use --submitit-cluster local."
            )
    unshared = {SharedFSUsage.PERSISTENCE, SharedFSUsage.INPUT_OUTPUT, SharedFSUsage.SOURCES} - set(shared_fs_usage)
    if unshared:
        raise WorkflowError(
            "The executor submitit needs a folder that the head and all nodes share; --shared-fs-usage lacks "
            + ", ".join(sorted(usage.item_to_choice() for usage in unshared))
        )

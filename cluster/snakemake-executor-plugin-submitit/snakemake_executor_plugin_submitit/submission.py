"""State of one job during its submission and execution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.paths import JobFolder
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.states import Kind, State


@dataclass
class Submission:
    """A Snakemake job together with its state on the cluster."""

    job: Any
    """The Snakemake job."""
    key: str
    fingerprint: str
    request: Request
    folder: JobFolder
    token: str = ""
    """Identifier of the call that submitted the job. All elements of an array have the same token."""
    index: int = 0
    job_id: str = ""
    """Id of the job on the cluster, or an empty string while the submission waits for SLURM's submit limit."""
    submitted_at: float = 0.0
    last: Kind = Kind.PENDING
    settled: State | None = None
    """The final state, if it is known without asking SLURM. Such a job is not included in queries."""
    requeues: int = 0
    """Number of requeues that have already been reported to the user."""
    retries: int = 0
    """Number of resubmissions that count towards `--submitit-retries`."""
    resubmissions: int = 0
    """Number of resubmissions that count towards `--submitit-max-requeues`."""
    error: str = ""
    first_log: Path | None = None
    """Log of the first rank that failed."""

    def shown_logs(self) -> list[str]:
        """Return the log of the first rank that failed, if the log exists."""
        return [str(self.first_log)] if self.first_log and self.first_log.exists() else []

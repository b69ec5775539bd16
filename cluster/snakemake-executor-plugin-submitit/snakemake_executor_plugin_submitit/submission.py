"""One job as Snakemake and the cluster see it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.paths import JobFolder
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.states import Kind


@dataclass
class Submission:
    """A job before, during and after its execution on the cluster."""

    job: Any
    """Snakemake's job."""
    key: str
    fingerprint: str
    request: Request
    folder: JobFolder
    token: str = ""
    """Names the sbatch call that submitted it; equal for all elements of an array."""
    index: int = 0
    job_id: str = ""
    submitted_at: float = 0.0
    last: Kind = Kind.PENDING
    requeues: int = 0
    """Requeues that have been logged."""
    retries: int = 0
    """Resubmissions that count towards `--submitit-retries`."""
    resubmissions: int = 0
    """Resubmissions that count towards `--submitit-max-requeues`."""
    error: str = ""
    first_log: Path | None = None
    """Log of the first rank that failed."""

    def shown_logs(self) -> list[str]:
        """Return the log that explains the failure, if it exists."""
        return [str(self.first_log)] if self.first_log and self.first_log.exists() else []

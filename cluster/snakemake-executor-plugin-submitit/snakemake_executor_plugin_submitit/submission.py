"""One job, from Snakemake's side and from the cluster's."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit.paths import JobFolder
from snakemake_executor_plugin_submitit.resources import Request
from snakemake_executor_plugin_submitit.states import Kind


@dataclass
class Submission:
    """A job that the cluster is to run, has, or had."""

    job: Any
    key: str
    fingerprint: str
    request: Request
    folder: JobFolder
    token: str = ""
    index: int = 0
    job_id: str = ""
    submitted_at: float = 0.0
    last: Kind = Kind.PENDING
    requeues: int = 0
    retries: int = 0
    resubmissions: int = 0
    error: str = ""
    first_log: Path | None = field(default=None)

    def shown_logs(self) -> list[str]:
        """The log that explains the failure."""
        return [str(self.first_log)] if self.first_log and self.first_log.exists() else []

"""The names of all files that belong to a job."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STATE = Path(".snakemake/submitit")
"""The plugin's state, next to Snakemake's own records in the workflow's working directory."""
REGISTRY = STATE / "registry"
_LONGEST_FOLDER_NAME = 120


@dataclass(frozen=True)
class JobFolder:
    """The files through which the ranks of one submission and the workflow process communicate.

    `root` is private to the submission and is removed after success; `logs` is for users and is kept.
    Queued jobs hold pickles of this class: do not rename it, its fields or this module.
    """

    root: Path
    logs: Path

    @property
    def wait_for(self) -> Path:
        """Names of the files that Snakemake's own command waits for, if they are too many for a command line."""
        return self.root / "wait-for.txt"

    @property
    def requeues(self) -> Path:
        """One line per requeue of the job."""
        return self.root / "requeues.jsonl"

    @property
    def saved(self) -> Path:
        """Written by the job's program once it has saved on request."""
        return self.root / "saved"

    def attempt(self, number: int) -> Path:
        """The notes of one attempt, kept apart from those of earlier attempts."""
        return self.root / f"attempt-{number}"

    def go(self, attempt: int) -> Path:
        """The rendezvous, written by rank 0 when the other ranks may start."""
        return self.attempt(attempt) / "go.json"

    def failure(self, attempt: int, rank: int) -> Path:
        """Why a rank failed."""
        return self.attempt(attempt) / f"failed-{rank}.json"

    def rank_log(self, rank: int) -> Path:
        """The output of a rank's command."""
        return self.logs / f"rank{rank}.txt"


def submission_folder(token: str) -> Path:
    """The folder of submitit's own files: the job script, the pickles and srun's output."""
    return (STATE / "submissions" / token).absolute()


def job_folder(token: str, logs: Path) -> JobFolder:
    """The folder of a job."""
    return JobFolder((STATE / "jobs" / token).absolute(), logs.absolute())


def rank_logs(log: Sequence[str], logdir: Path, name: str, wildcards: Sequence[str]) -> Path:
    """The folder of the rank logs: next to the rule's log, or in `logdir` by rule and wildcards."""
    if log:
        return Path(f"{log[0]}.ranks")
    parts = [re.sub(r"[^\w.=+-]+", "_", part) for part in wildcards]
    folder = logdir / name / ("_".join(parts) or "job")
    if len(folder.name) <= _LONGEST_FOLDER_NAME:
        return folder
    return folder.with_name(hashlib.sha256(folder.name.encode()).hexdigest()[:16])

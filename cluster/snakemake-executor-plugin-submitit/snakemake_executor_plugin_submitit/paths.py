"""Every file name of a job."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STATE = Path(".snakemake/submitit")
"""Beside Snakemake's own records, in the workflow's folder."""
REGISTRY = STATE / "registry"


@dataclass(frozen=True)
class JobFolder:
    """Where one submission and its ranks keep what they tell each other and the head.

    `root` is private to the submission and removed once it succeeded; `logs` is for people and stays.
    """

    root: Path
    logs: Path

    @property
    def wait_for(self) -> Path:
        """Names of files that Snakemake's own command waits for, where they are too many for a command line."""
        return self.root / "wait-for.txt"

    @property
    def requeues(self) -> Path:
        """A line for each time the job was requeued."""
        return self.root / "requeues.jsonl"

    @property
    def saved(self) -> Path:
        """Written by the job's program when it has saved on request."""
        return self.root / "saved"

    def attempt(self, number: int) -> Path:
        """Notes of one attempt; those of an earlier attempt are never taken for it."""
        return self.root / f"attempt-{number}"

    def go(self, attempt: int) -> Path:
        """Written by rank 0 when the others may start: where they find it."""
        return self.attempt(attempt) / "go.json"

    def failure(self, attempt: int, rank: int) -> Path:
        """Why a rank failed."""
        return self.attempt(attempt) / f"failed-{rank}.json"

    def rank_log(self, rank: int) -> Path:
        """What a rank's command printed."""
        return self.logs / f"rank{rank}.txt"


def submission_folder(token: str) -> Path:
    """Submitit's own files of a submission: script, pickles, and what srun printed."""
    return (STATE / "submissions" / token).absolute()


def job_folder(token: str, logs: Path) -> JobFolder:
    """The folder of a job."""
    return JobFolder((STATE / "jobs" / token).absolute(), logs.absolute())


def rank_logs(log: Sequence[str], logdir: Path, name: str, wildcards: Sequence[str]) -> Path:
    """The folder of the ranks' logs: beside the rule's log, or in `logdir`, by rule and wildcards."""
    if log:
        return Path(f"{log[0]}.ranks")
    parts = [re.sub(r"[^\w.=+-]+", "_", part) for part in wildcards]
    folder = logdir / name / ("_".join(parts) or "job")
    if len(folder.name) <= 120:
        return folder
    return folder.with_name(hashlib.sha256(folder.name.encode()).hexdigest()[:16])

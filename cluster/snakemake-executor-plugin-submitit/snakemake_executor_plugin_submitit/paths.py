"""Paths of all files that belong to a job."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

STATE = Path(".snakemake/submitit")
"""Folder for the plugin's state, next to Snakemake's metadata in the working directory."""
REGISTRY = STATE / "registry"
_LONGEST_FOLDER_NAME = 120


@dataclass(frozen=True)
class JobFolder:
    """The files through which the ranks of one submission and the workflow process communicate.

    `root` is private to the submission and is removed when the job succeeds. `logs` is for users and is kept.
    Queued jobs contain pickles of this class: do not rename the class, its fields or this module.
    """

    root: Path
    logs: Path

    @property
    def wait_for(self) -> Path:
        """File with the paths that an inner Snakemake waits for, if there are too many for its command line."""
        return self.root / "wait-for.txt"

    @property
    def requeues(self) -> Path:
        """File with one line per requeue of the job."""
        return self.root / "requeues.jsonl"

    @property
    def saved(self) -> Path:
        """File that the job's program creates after it has saved in response to SIGUSR2."""
        return self.root / "saved"

    def attempt(self, number: int) -> Path:
        """Return the folder with the records of one attempt. Each attempt has a separate folder."""
        return self.root / f"attempt-{number}"

    def go(self, attempt: int) -> Path:
        """Return the rendezvous file, which rank 0 writes when the other ranks may start."""
        return self.attempt(attempt) / "go.json"

    def failure(self, attempt: int, rank: int) -> Path:
        """Return the file that contains the reason for a rank's failure."""
        return self.attempt(attempt) / f"failed-{rank}.json"

    def completed(self, rank: int) -> Path:
        """Return the file with the number of the attempt in which a rank's command completed."""
        return self.root / f"completed-{rank}"

    def rank_log(self, rank: int) -> Path:
        """Return the file that contains the output of a rank's command."""
        return self.logs / f"rank{rank}.txt"


def make_private(folder: Path) -> None:
    """Create a folder that only the user can access, with every umask: its pickles are executed by jobs."""
    folder.mkdir(parents=True, exist_ok=True)
    if folder.stat().st_mode & 0o077:
        folder.chmod(0o700)


def submission_folder(token: str) -> Path:
    """Return the folder for submitit's files: the job script, the pickles and the output of srun."""
    return (STATE / "submissions" / token).absolute()


def job_folder(token: str, logs: Path) -> JobFolder:
    """Return the `JobFolder` of a submission."""
    return JobFolder((STATE / "jobs" / token).absolute(), logs.absolute())


def rank_logs(log: Sequence[str], logdir: Path, name: str, wildcards: Sequence[str]) -> Path:
    """Return the folder for rank logs: LOG.ranks if the rule has a log file LOG, else a folder in `logdir`."""
    if log:
        return Path(f"{log[0]}.ranks")
    parts = [re.sub(r"[^\w.=+-]+", "_", part) for part in wildcards]
    folder = logdir / name / ("_".join(parts) or "job")
    if len(folder.name) <= _LONGEST_FOLDER_NAME:
        return folder
    return folder.with_name(hashlib.sha256(folder.name.encode()).hexdigest()[:16])

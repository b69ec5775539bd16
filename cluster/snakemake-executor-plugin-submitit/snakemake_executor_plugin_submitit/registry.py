"""Records of submitted SLURM jobs, with which a later workflow process finds the jobs.

Snakemake's own record of the job id is not sufficient, because an inner Snakemake overwrites it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """A submitted job. The fields are the keys of the JSON file: do not rename or remove them."""

    job_id: str
    token: str
    index: int
    tasks: int
    logs: str
    fingerprint: str
    """Digest from `job_fingerprint`. It differs between jobs with different commands, parameters or files."""
    submitted: float
    """Time of the submission, in seconds since the epoch."""


def record_key(job: Any) -> str:
    """Return the key of a job's record: a digest of its outputs, or of its rule and wildcards if it has no outputs."""
    names = sorted(os.path.abspath(path) for path in job.output) or [job.name, job.format_wildcards("{wildcards}")]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]


def job_fingerprint(job: Any, persistence: Any) -> str:
    """Return a digest of a job's code, parameters, inputs and outputs. A group job includes all its members."""
    parts = []
    for member in job.jobs if job.is_group() else [job]:
        parts.append([member.rule.name, persistence._code(member.rule), persistence._params(member)])
        parts.append(sorted(str(path) for path in member.input))
        parts.append(sorted(str(path) for path in member.output))
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


class Registry:
    """A folder with one file per job that may still run."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def read_all(self) -> dict[str, Record]:
        """Return all records by key, and delete files that are unreadable because they were written incompletely."""
        found = {}
        for path in self._folder.glob("*.json"):
            try:
                found[path.stem] = Record(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                path.unlink(missing_ok=True)
        return found

    def put(self, key: str, record: Record) -> None:
        """Write a record atomically."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{key}.part"
        partial.write_text(json.dumps(asdict(record)))
        partial.rename(self._folder / f"{key}.json")

    def drop(self, key: str) -> None:
        """Delete a record, for example after the job has ended."""
        (self._folder / f"{key}.json").unlink(missing_ok=True)


def outputs_are_current(record: Record, job: Any) -> bool:
    """Return whether all outputs of a finished job exist and no input changed after the job was submitted."""
    members = job.jobs if job.is_group() else [job]
    outputs = [str(path) for member in members for path in member.output]
    inputs = [str(path) for path in job.input]
    if not outputs or not all(os.path.lexists(path) for path in outputs):
        return False
    return all(os.path.getmtime(path) <= record.submitted for path in inputs if os.path.exists(path))

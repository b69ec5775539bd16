"""Which SLURM job makes which outputs: written by a head, found again by its successor.

Snakemake's own record of a job's id does not last: the inner Snakemake overwrites it.
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
    """A submitted job."""

    job_id: str
    token: str
    index: int
    tasks: int
    logs: str
    fingerprint: str
    """Of what the job runs: a job of another command or other parameters is not taken for this one."""
    submitted: float


def key_of(job: Any) -> str:
    """The name of a job's record: its outputs, or its rule and wildcards."""
    names = sorted(os.path.abspath(path) for path in job.output) or [job.name, job.format_wildcards("{wildcards}")]
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:24]


def fingerprint_of(job: Any, persistence: Any) -> str:
    """A digest of what a job runs: code, parameters and inputs of its rules."""
    parts = []
    for member in job.jobs if job.is_group() else [job]:
        parts.append([member.rule.name, persistence._code(member.rule), persistence._params(member)])
        parts.append(sorted(str(path) for path in member.input))
        parts.append(sorted(str(path) for path in member.output))
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:24]


class Registry:
    """A folder with a file for each job that may be alive."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()

    def all(self) -> dict[str, Record]:
        """Every record, by key. One that cannot be read was not finished by its writer and names no job."""
        found = {}
        for path in self._folder.glob("*.json"):
            try:
                found[path.stem] = Record(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                path.unlink(missing_ok=True)
        return found

    def put(self, key: str, record: Record) -> None:
        """Write a record, whole or not at all."""
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{key}.part"
        partial.write_text(json.dumps(asdict(record)))
        partial.rename(self._folder / f"{key}.json")

    def drop(self, key: str) -> None:
        """Forget a job that has ended."""
        (self._folder / f"{key}.json").unlink(missing_ok=True)


def current(record: Record, job: Any) -> bool:
    """Whether a finished job's outputs are all there and its inputs are no newer than the job."""
    members = job.jobs if job.is_group() else [job]
    outputs = [str(path) for member in members for path in member.output]
    inputs = [str(path) for path in job.input]
    if not outputs or not all(os.path.lexists(path) for path in outputs):
        return False
    return all(os.path.getmtime(path) <= record.submitted for path in inputs if os.path.exists(path))

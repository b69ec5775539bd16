"""Records of submitted SLURM jobs, with which a later workflow process finds the jobs.

Snakemake's own record of the job id is not sufficient, because an inner Snakemake overwrites it. The record of a
submission is written before sbatch is called. If the workflow process is killed before it records sbatch's answer, the
next one finds the jobs by the submission's token.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from snakemake_executor_plugin_submitit import bundles
from snakemake_executor_plugin_submitit.paths import make_private


@dataclass(frozen=True)
class Record:
    """A submitted job. The fields are keys of JSON files: do not rename or remove them."""

    job_id: str
    """Id of the job, or an empty string if sbatch's answer was not recorded."""
    token: str
    index: int
    tasks: int
    logs: str
    fingerprint: str
    """Digest from `job_fingerprint`. It differs between jobs with different commands, parameters or files."""
    submitted: float
    """Time of the submission, in seconds since the epoch."""
    cluster: str = ""
    """Name of the SLURM cluster, or an empty string if it is unknown."""
    bundle: int = 1
    """Maximum number of jobs in a bundle."""


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
    """A folder with one file per submission. The class is thread-safe.

    The first line of `TOKEN.jsonl` describes the submission and its jobs. Later lines contain the number that sbatch
    returned, and the indexes of jobs that ended. The file is deleted when all its jobs have ended. Earlier versions
    wrote one file `KEY.json` per job.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder.absolute()
        self._lock = threading.Lock()
        self._open: dict[str, set[int]] = {}
        """Indexes of the jobs that have not ended, by token."""
        self._counts: dict[str, int] = {}
        """Number of jobs by token."""

    def read_all(self) -> dict[str, Record]:
        """Return the records of all jobs that have not ended, by key. Delete files without a complete record."""
        found: dict[str, Record] = {}
        for path in self._folder.glob("*.json"):
            try:
                found[path.stem] = Record(**json.loads(path.read_text()))
            except (ValueError, TypeError):
                path.unlink(missing_ok=True)
        submissions = [records for path in self._folder.glob("*.jsonl") if (records := self._read(path))]
        for records in sorted(submissions, key=lambda records: next(iter(records.values())).submitted):
            found |= records
        return found

    def _read(self, path: Path) -> dict[str, Record]:
        lines = [json.loads(line) for line in path.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        first = lines[0] if lines else {}
        jobs = first.get("jobs", [])
        number = next((line["number"] for line in lines if "number" in line), "")
        ended = {line["ended"] for line in lines if "ended" in line}
        open_jobs = {index: job for index, job in enumerate(jobs) if index not in ended}
        if not open_jobs:
            path.unlink(missing_ok=True)
            return {}
        self._open[path.stem], self._counts[path.stem] = set(open_jobs), len(jobs)
        return {
            job["key"]: Record(
                job_id=bundles.job_id(number, index, len(jobs), first.get("bundle", 1)) if number else "",
                token=path.stem,
                index=index,
                tasks=first["tasks"],
                logs=job["logs"],
                fingerprint=job["fingerprint"],
                submitted=first["submitted"],
                cluster=first["cluster"],
                bundle=first.get("bundle", 1),
            )
            for index, job in open_jobs.items()
        }

    def add(self, records: Mapping[str, Record]) -> None:
        """Record a submission before sbatch is called.

        Args:
            records: The submission's records by key, in the order of their indexes.

        Raises:
            OSError: The file cannot be written.
        """
        first = next(iter(records.values()))
        jobs = [{"key": key, "logs": each.logs, "fingerprint": each.fingerprint} for key, each in records.items()]
        line = {"cluster": first.cluster, "submitted": first.submitted, "tasks": first.tasks, "jobs": jobs}
        if first.bundle > 1:
            line["bundle"] = first.bundle
        make_private(self._folder)
        path = self._path(first.token)
        try:
            path.write_text(json.dumps(line) + "\n")
        except OSError:
            path.unlink(missing_ok=True)
            raise
        with self._lock:
            self._open[first.token], self._counts[first.token] = set(range(len(records))), len(records)

    def submitted_count(self, token: str) -> int:
        """Return the number of jobs of a submission, including those that ended."""
        return self._counts[token]

    def set_number(self, token: str, number: str) -> None:
        """Record the number that sbatch returned for a submission.

        Raises:
            OSError: The file cannot be written.
        """
        self._append(token, {"number": number})

    def drop(self, token: str, indexes: Sequence[int], keys: Sequence[str] = ()) -> None:
        """Record that jobs have ended. `keys` are needed only for the records of earlier versions.

        Raises:
            OSError: The file cannot be written.
        """
        for key in keys:
            (self._folder / f"{key}.json").unlink(missing_ok=True)
        with self._lock:
            ended = self._open.get(token, set()).intersection(indexes)
            if not ended:
                return
            self._open[token] -= ended
            last = not self._open[token]
        if last:
            self._path(token).unlink(missing_ok=True)
        else:
            for index in sorted(ended):
                self._append(token, {"ended": index})

    def _append(self, token: str, line: Mapping[str, Any]) -> None:
        with open(self._path(token), "a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")

    def _path(self, token: str) -> Path:
        return self._folder / f"{token}.jsonl"

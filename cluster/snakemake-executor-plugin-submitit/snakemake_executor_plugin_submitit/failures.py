"""Error messages for failed jobs, with the reason, the first rank that failed, and the end of that rank's log."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.paths import JobFolder

_LINES = 20
_BYTES = 20_000
"""Number of bytes read from the end of a log to find its last lines."""
EXPLANATIONS = {
    "OUT_OF_MEMORY": "it used more memory than requested (mem_mb)",
    "TIMEOUT": "it reached its time limit (runtime)",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "it was preempted by another job",
    "CANCELLED": "it was cancelled",
    "BOOT_FAIL": "its node did not boot",
    "DEADLINE": "it could not end before its deadline",
    "UNKNOWN": "SLURM no longer lists it, and its ranks recorded no result",
    "REQUEUE_REFUSED": "SLURM did not allow it to requeue itself after saving",
    "REQUEUES_SPENT": "it reached the maximum number of requeues",
}


@dataclass(frozen=True)
class Failure:
    """The failure of the first rank that failed."""

    rank: int
    host: str
    text: str
    reason: str
    log: Path


def first_failure(folder: JobFolder) -> Failure | None:
    """Return the earliest failure in the last attempt, or None if no rank recorded a failure."""
    attempts = sorted(folder.root.glob("attempt-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for attempt in attempts[:1]:
        records = [json.loads(path.read_text()) for path in attempt.glob("failed-*.json")]
        if records:
            first = min(records, key=lambda record: record["time"])
            return Failure(first["rank"], first["host"], first["text"], first["reason"], Path(first["log"]))
    return None


def last_lines(path: Path, lines: int = _LINES) -> str:
    """Return the last lines of a log, without the output of earlier attempts."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _BYTES))
        text = file.read().decode(errors="replace")
    found = text.replace("\r", "\n").splitlines()
    starts = [i for i, line in enumerate(found) if line.startswith("== ") and ", attempt " in line]
    found = found[starts[-1] + 1 :] if starts else found
    return "\n".join(found[-lines:])


def error_message(
    cluster: str, job_id: str, state: str, failure: Failure | None, folder: JobFolder, stdout: Path
) -> str:
    """Format the error message that Snakemake reports for a failed job.

    Args:
        cluster: Name of the cluster.
        job_id: Id of the job on the cluster.
        state: Name of the job's final state.
        failure: The failure of the first rank that failed, or None if no rank recorded a failure.
        folder: The job's folder.
        stdout: File with the output of submitit's process for rank 0.
    """
    reason = failure.reason if failure and failure.reason else state
    explanation = EXPLANATIONS.get(reason)
    summary = f"{cluster} job {job_id}: {reason}" + (f", {explanation}" if explanation else "")
    if failure is not None:
        first = f"rank {failure.rank} on {failure.host}: {failure.text}"
        tail = _indented(last_lines(failure.log))
        return f"{summary}. First failure: {first}.\nLast lines of {failure.log}:\n{tail}"
    log = folder.rank_log(0)
    tail = last_lines(log) or last_lines(stdout)
    if tail:
        return f"{summary}.\nLast lines of {log if log.exists() else stdout}:\n{_indented(tail)}"
    return f"{summary}.\nNo rank wrote a log. Check that the nodes can access {stdout.parent} on a shared file system."


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())

"""Records of failed ranks, and error messages with the reason, the first rank that failed, and the end of its log."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.paths import JobFolder

_LINES = 20
_BYTES = 20_000
"""Number of bytes read from the end of a log to find its last lines."""
_RESERVED_BYTES = 4096
TERMINATED = "TERMINATED"
"""Reason of a rank that received SIGTERM although SLURM was not ending the job."""
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
    TERMINATED: "it was stopped by a signal, although SLURM was not ending it",
}
_AFTER_START = {"RUNNING", "COMPLETED", "FAILED", "UNKNOWN"}
"""States of jobs that have started. A job in any other state may have ended before its ranks started."""
_WITHOUT_CAUSE = {"FAILED", "COMPLETED", "UNKNOWN"}
"""States that do not state why a job ended."""


@dataclass(frozen=True)
class Failure:
    """The failure of the first rank that failed."""

    rank: int
    host: str
    text: str
    reason: str
    log: Path


def failure_cause(state: str, reason: str) -> str:
    """Return why a job failed: the reason that its ranks recorded, or the job's final SLURM state.

    A cancelled job remains cancelled for any recorded reason. For TERMINATED, any state that states a cause takes
    precedence, because SLURM also sends SIGTERM when it ends a job.
    """
    if not reason or state == "CANCELLED" or (reason == TERMINATED and state not in _WITHOUT_CAUSE):
        return state
    return reason


def reserve_record(path: Path) -> None:
    """Reserve disk space for a rank's failure record, so that it can be written when the disk is full."""
    with contextlib.suppress(OSError):
        path.with_suffix(".part").write_bytes(b" " * _RESERVED_BYTES)


def write_record(path: Path, record: dict) -> None:
    """Write a rank's failure record atomically, if possible into the reserved disk space.

    Raises:
        OSError: The record cannot be written.
    """
    partial = path.with_suffix(".part")
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT, 0o666), "wb") as file:  # truncation would free the space
        file.write(json.dumps(record).encode().ljust(_RESERVED_BYTES))
        file.truncate()
    partial.rename(path)


def read_records(attempt: Path) -> list[dict]:
    """Return the failure records of an attempt. Damaged records are skipped.

    Raises:
        OSError: A record cannot be read.
    """
    found = []
    for path in attempt.glob("failed-*.json"):
        with contextlib.suppress(ValueError):
            found.append(json.loads(path.read_text()))
    return found


def first_failure(folder: JobFolder) -> Failure | None:
    """Return the earliest failure in the last attempt, or None if no rank recorded a failure.

    When a rank fails, srun sends SIGTERM to the other ranks. Their records do not take precedence over the failure,
    even if the clocks of the nodes differ.

    Raises:
        OSError: A record cannot be read.
    """
    attempts = sorted(folder.root.glob("attempt-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for attempt in attempts[:1]:
        records = read_records(attempt)
        if records:
            first = min(records, key=lambda record: (record["reason"] == TERMINATED, record["time"]))
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
    cause = failure_cause(state, failure.reason if failure else "")
    explanation = EXPLANATIONS.get(cause)
    summary = f"{cluster} job {job_id}: {cause}" + (f", {explanation}" if explanation else "")
    if failure is not None and (failure.reason != TERMINATED or cause == TERMINATED):
        summary += f". First failure: rank {failure.rank} on {failure.host}: {failure.text}."
        tail = last_lines(failure.log)
        return f"{summary}\nLast lines of {failure.log}:\n{_indented(tail)}" if tail else summary
    summary += "." + _unrecorded_failure(stdout)
    log = folder.rank_log(0)
    tail = last_lines(log) or last_lines(stdout)
    if tail:
        return f"{summary}\nLast lines of {log if log.exists() else stdout}:\n{_indented(tail)}"
    if state in _AFTER_START:
        return (
            f"{summary}\nNo rank wrote a log. Check that the nodes can access {stdout.parent} on a shared file system."
        )
    started = any(folder.root.glob("attempt-*"))
    return f"{summary}\n" + ("No rank wrote a log." if started else "The job ended before its ranks started.")


def _unrecorded_failure(stdout: Path) -> str:
    """Return the error of a rank that could not write its failure record, from the output of submitit's processes."""
    for path in sorted(stdout.parent.glob(stdout.name.replace("_0_log.out", "_*_log.out"))):
        for line in reversed(last_lines(path).splitlines()):
            _, found, text = line.partition(".RankFailed: ")
            if found:
                return f" First failure: {text}."
    return ""


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())

"""Save and requeue a job from inside the job, on preemption or shortly before the job's time limit."""

from __future__ import annotations

import contextlib
import enum
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from snakemake_executor_plugin_submitit import processes
from snakemake_executor_plugin_submitit.rendezvous import RankInfo
from snakemake_executor_plugin_submitit.work import Work

_REQUEUE_CALL_SECONDS = 10.0
"""Part of the signal delay, in seconds, that is reserved for the requeue call."""
_LONGEST_REQUEUE_CALL_SECONDS = 60.0
QUERY_SECONDS = 5.0
"""Time limit of a query for the job's status. By default, SLURM kills a job 30 s after SIGTERM (KillWait)."""
REFUSED = "SLURM refuses to requeue"
LIMIT_REACHED = "the job reached the maximum number of requeues"
PREEMPTED = "preempted"
_ACTIVE = {"RUNNING", "PREEMPTED", "SUSPENDED", "STOPPED", "SIGNALING", "RESIZING"}
_SIGNAL_RESOLUTION_SECONDS = 90
"""Tolerance for the time of the signal, which SLURM may send up to 60 s earlier than requested."""
END_SECONDS = 120
"""Maximum time in seconds to wait until SLURM ends the step of a requeued job."""


class JobStatus(enum.Enum):
    """What SLURM is doing with a running job."""

    RUNNING = "running"
    """SLURM is not ending the job."""
    PREEMPTED = "preempted"
    ENDING = "ending"
    """The job was cancelled or requeued, or it reached a limit."""
    UNKNOWN = "unknown"
    """SLURM did not respond."""


def save_seconds(delay_seconds: float) -> float:
    """Return the seconds that a program may use to save, given the seconds between the signal and the time limit."""
    return max(delay_seconds / 2, delay_seconds - _REQUEUE_CALL_SECONDS)


def save(process: subprocess.Popen, saved: Path, limit_seconds: float) -> bool | None:
    """Signal the program to save, and wait until it has saved.

    Returns:
        True if the program reported that it saved, False if it ended first or `limit_seconds` elapsed, and None if
        none of its processes handles the signal.
    """
    saved.unlink(missing_ok=True)
    if not processes.signal_handlers(process, processes.SAVE_SIGNAL):
        return False if process.poll() is not None else None
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        if saved.exists():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


def cause_of_signal(work: Work, info: RankInfo) -> str:
    """Return why the job received SIGUSR2: near its time limit, preempted, or because a user sent the signal."""
    if _seconds_left(work, info) < work.signal_delay_seconds + _SIGNAL_RESOLUTION_SECONDS:
        return "near its time limit"
    return PREEMPTED if query_status(info.job_id) is JobStatus.PREEMPTED else "received SIGUSR2"


def requeue(work: Work, info: RankInfo, cause: str, *, saved: bool) -> str:
    """Requeue this job and record the requeue for the workflow process. SLURM then ends the step.

    The job is requeued even if the requeue cannot be recorded, for example because the disk is full.

    Returns:
        The reason why the job cannot be requeued, or an empty string on success.
    """
    path = work.folder.requeues
    record = {"attempt": info.attempt, "cause": cause, "saved": saved, "time": time.time()}
    try:
        count = len(read_requeues(path))
        if count < work.max_requeues:
            _append(path, record)
    except OSError as error:
        print(f"This requeue ({cause}) was not recorded in {path}: {error}", file=sys.stderr)
        count = info.attempt  # the number of restarts, so that the number of requeues remains limited
    if count >= work.max_requeues:
        return f"{LIMIT_REACHED} ({work.max_requeues}, --submitit-max-requeues)"
    _, error = _scontrol("requeue", info.job_id, seconds=_requeue_call_seconds(work, info))
    return f"{REFUSED} job {info.job_id}: {error}" if error else ""


def _append(path: Path, record: dict) -> None:
    with open(path, "ab") as file:
        started = file.tell() > 0 and not path.read_bytes().endswith(b"\n")  # a write to a full disk was incomplete
        file.write(b"\n" * started + json.dumps(record).encode() + b"\n")


def read_requeues(path: Path) -> list[dict]:
    """Return the records of all requeues so far, oldest first. Incompletely written records are skipped.

    Raises:
        OSError: The file exists, but cannot be read.
    """
    if not path.exists():
        return []
    found = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError):
            found.append(json.loads(line))
    return found


def reason_of(refused: str) -> str:
    """Return the reason code of a failed requeue. The workflow process resubmits the job only for REQUEUE_REFUSED."""
    return "REQUEUE_REFUSED" if refused.startswith(REFUSED) else "REQUEUES_SPENT"


def query_status(job_id: str) -> JobStatus:
    """Return what SLURM is doing with a job that received a signal. The query takes at most `QUERY_SECONDS`."""
    shown, error = _scontrol("show", "job", "--oneliner", job_id, seconds=QUERY_SECONDS)
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    if error or "JobState" not in fields:
        return JobStatus.UNKNOWN
    if fields["JobState"] not in _ACTIVE:
        return JobStatus.ENDING
    preempted = fields["JobState"] == "PREEMPTED" or fields.get("PreemptTime", "None") not in ("None", "Unknown")
    return JobStatus.PREEMPTED if preempted else JobStatus.RUNNING


def wait_for_step_end(process: subprocess.Popen | None) -> None:
    """Wait until SLURM ends the step after a requeue. A program that handles SIGTERM can save once more."""
    deadline = time.monotonic() + END_SECONDS
    while (process is None or process.poll() is None) and time.monotonic() < deadline:
        time.sleep(0.1)
    if process is not None:
        processes.stop(process, 0)


def _scontrol(*arguments: str, seconds: float) -> tuple[str, str]:
    """Run scontrol. Return its output, and the reason if it failed.

    SLURM signals all processes of a step, so scontrol ignores the same signals as the program.
    """
    try:
        done = subprocess.run(
            ["scontrol", *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=seconds,
            preexec_fn=processes.ignore_signals,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"scontrol did not respond within {seconds:.0f} s"
    except (OSError, subprocess.SubprocessError) as error:
        return "", f"scontrol cannot be started ({error})"
    failed = f"scontrol ended with exit status {done.returncode}" if done.returncode else ""
    return done.stdout, failed and (done.stderr.strip() or failed)


def _requeue_call_seconds(work: Work, info: RankInfo) -> float:
    """Return the time limit of the requeue call. A rank needs the remaining seconds to record why the call failed."""
    left = _seconds_left(work, info)
    if left > work.signal_delay_seconds + _SIGNAL_RESOLUTION_SECONDS:
        return _REQUEUE_CALL_SECONDS  # a preempted job must be requeued before the end of its grace time
    return min(max(left - _REQUEUE_CALL_SECONDS / 2, _REQUEUE_CALL_SECONDS / 2), _LONGEST_REQUEUE_CALL_SECONDS)


def _seconds_left(work: Work, info: RankInfo) -> float:
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        return int(end) - time.time()
    if work.minutes is not None:
        return 60 * work.minutes - (time.time() - info.started)
    return float("inf")

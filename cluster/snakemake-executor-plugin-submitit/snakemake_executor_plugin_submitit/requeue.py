"""Save and requeue a job from inside the job, on preemption or shortly before the job's time limit."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from snakemake_executor_plugin_submitit import processes
from snakemake_executor_plugin_submitit.rendezvous import RankInfo
from snakemake_executor_plugin_submitit.work import Work

_REQUEUE_CALL_SECONDS = 10.0
"""Part of the signal delay, in seconds, that is reserved for the requeue call."""
REFUSED = "SLURM refuses to requeue"
LIMIT_REACHED = "the job reached the maximum number of requeues"
_SIGNAL_RESOLUTION_SECONDS = 90
"""Tolerance for the time of the signal, which SLURM may send up to 60 s earlier than requested."""
END_SECONDS = 120
"""Maximum time in seconds to wait until SLURM ends the step of a requeued job."""


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


def requeue(work: Work, info: RankInfo, *, saved: bool) -> str:
    """Requeue this job and record the requeue for the workflow process. SLURM then ends the step.

    Returns:
        The reason why the job cannot be requeued, or an empty string on success.
    """
    if len(read_requeues(work.folder.requeues)) >= work.max_requeues:
        return f"{LIMIT_REACHED} ({work.max_requeues}, --submitit-max-requeues)"
    cause = "near its time limit" if _is_near_limit(work, info) else "preempted"
    record = {"attempt": info.attempt, "cause": cause, "saved": saved, "time": time.time()}
    with open(work.folder.requeues, "a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    done = subprocess.run(["scontrol", "requeue", info.job_id], capture_output=True, text=True, timeout=60, check=False)
    return f"{REFUSED} job {info.job_id}: {done.stderr.strip()}" if done.returncode else ""


def read_requeues(path: Path) -> list[dict]:
    """Return the records of all requeues so far, oldest first."""
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]


def reason_of(refused: str) -> str:
    """Return the reason code of a failed requeue. The workflow process resubmits the job only for REQUEUE_REFUSED."""
    return "REQUEUE_REFUSED" if refused.startswith(REFUSED) else "REQUEUES_SPENT"


def is_preempted(job_id: str) -> bool:
    """Return whether SLURM is preempting a job, as opposed to cancelling it or ending it after a rank failed."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "--oneliner", job_id], capture_output=True, text=True, timeout=30, check=False
    ).stdout
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    running = fields.get("JobState") in ("RUNNING", "PREEMPTED")
    return running and fields.get("PreemptTime", "None") not in ("None", "Unknown")


def wait_for_step_end(process: subprocess.Popen) -> None:
    """Wait until SLURM ends the step after a requeue. A program that handles SIGTERM can save once more."""
    deadline = time.monotonic() + END_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    processes.stop(process, 0)


def _is_near_limit(work: Work, info: RankInfo) -> bool:
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        left = int(end) - time.time()
    elif work.minutes is not None:
        left = 60 * work.minutes - (time.time() - info.started)
    else:
        return False
    return left < work.signal_delay_seconds + _SIGNAL_RESOLUTION_SECONDS

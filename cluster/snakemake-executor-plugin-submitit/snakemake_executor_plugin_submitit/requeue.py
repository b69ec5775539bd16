"""Saving and requeueing a job from inside, on preemption and shortly before its time limit."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

from snakemake_executor_plugin_submitit import processes
from snakemake_executor_plugin_submitit.place import Place
from snakemake_executor_plugin_submitit.work import Work

_CALL_SECONDS = 10.0
"""Kept back from the time to save, for the call that requeues."""
REFUSED = "SLURM refuses to requeue"
TOO_OFTEN = "requeued as often as is allowed"
_RESOLUTION_SECONDS = 90
"""SLURM may signal up to a minute early."""
END_SECONDS = 120
"""SLURM ends a step well before that."""


def save_seconds(delay_seconds: float) -> float:
    """How long a program may take to save, of the time between the signal and the end."""
    return max(delay_seconds / 2, delay_seconds - _CALL_SECONDS)


def save(process: subprocess.Popen, saved: Path, limit_seconds: float) -> bool | None:
    """Ask the program to save, and wait until it has.

    Returns:
        True when it said so; False when it ended or the time was over; None if nothing in it listens to the signal.
    """
    saved.unlink(missing_ok=True)
    if not processes.ask(process, processes.SAVE):
        return False if process.poll() is not None else None
    deadline = time.monotonic() + limit_seconds
    while time.monotonic() < deadline:
        if saved.exists():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.1)
    return False


def requeue(work: Work, place: Place, *, saved: bool) -> str:
    """Requeue this job and note it for the head. The step is ended by SLURM soon after.

    Returns:
        Why it cannot be; empty if it was.
    """
    before = earlier(work.folder.requeues)
    if len(before) >= work.max_requeues:
        return f"{TOO_OFTEN} ({work.max_requeues}, --submitit-max-requeues)"
    cause = "near its time limit" if _near_limit(work, place) else "preempted"
    note = {"attempt": place.attempt, "cause": cause, "saved": saved, "time": time.time()}
    with open(work.folder.requeues, "a", encoding="utf-8") as file:
        file.write(json.dumps(note) + "\n")
    done = subprocess.run(
        ["scontrol", "requeue", place.job_id], capture_output=True, text=True, timeout=60, check=False
    )
    return f"{REFUSED} job {place.job_id}: {done.stderr.strip()}" if done.returncode else ""


def earlier(requeues: Path) -> list[dict]:
    """The notes of earlier requeues, oldest first."""
    if not requeues.exists():
        return []
    return [json.loads(line) for line in requeues.read_text().splitlines() if line.endswith("}")]


def reason_of(refused: str) -> str:
    """The reason for the head: one it can mend by a new submission, or none."""
    return "REQUEUE_REFUSED" if refused.startswith(REFUSED) else "REQUEUES_SPENT"


def is_preempted(job_id: str) -> bool:
    """Whether SLURM is about to preempt a job, rather than cancel it or end it for a failed rank."""
    shown = subprocess.run(
        ["scontrol", "show", "job", "--oneliner", job_id], capture_output=True, text=True, timeout=30, check=False
    ).stdout
    fields = dict(word.split("=", 1) for word in shown.split() if "=" in word)
    running = fields.get("JobState") in ("RUNNING", "PREEMPTED")
    return running and fields.get("PreemptTime", "None") not in ("None", "Unknown")


def await_end(process: subprocess.Popen) -> None:
    """After the requeue SLURM ends this step; a program that hears TERM saves once more and ends by itself."""
    deadline = time.monotonic() + END_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    processes.stop(process, 0)


def _near_limit(work: Work, place: Place) -> bool:
    end = os.environ.get("SLURM_JOB_END_TIME", "")
    if end.isdigit():
        left = int(end) - time.time()
    elif work.minutes is not None:
        left = 60 * work.minutes - (time.time() - place.started)
    else:
        return False
    return left < work.signal_delay_seconds + _RESOLUTION_SECONDS

"""Checks of soak.py after the workflow has ended."""

from __future__ import annotations

import json
import signal
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cluster.throwaway import ThrowawaySlurm

_MAX_MEMORY_GROWTH = 1.1
_INTERRUPTION_SECONDS = 1.0


@dataclass
class Attempts:
    """The lines that the attempts of one short job appended to its file."""

    starts: list[str]
    """SLURM job id of each start."""
    ends: list[tuple[str, float]]
    """SLURM job id and time of each completion."""

    @staticmethod
    def read(path: Path) -> Attempts:
        """Read a file. Incomplete lines of killed jobs are ignored."""
        rows = [line.split() for line in lines(path) if len(line.split()) == 3]
        return Attempts(
            starts=[job for event, job, _ in rows if event == "start"],
            ends=[(job, float(at)) for event, job, at in rows if event == "end"],
        )


def check_jobs(
    folder: Path, jobs: int, slurm: ThrowawaySlurm, crashes: Sequence[float]
) -> tuple[dict[str, bool], dict[str, object]]:
    """Check the short jobs.

    A job that completes in the second before its node crashes or its preemption ends may have no time to report this to
    SLURM, which then requeues it. Such jobs are counted separately.

    Returns:
        The checks with whether each failed, and the counts.
    """
    attempts = {path.name: Attempts.read(path) for path in (folder / "made").iterdir()}
    outputs = sum((folder / f"out/{number}.txt").exists() for number in range(jobs))
    twice = {name: each.ends for name, each in attempts.items() if len(each.ends) > 1}
    excused = {name for name, ends in twice.items() if _was_interrupted_at_its_end(ends, slurm, crashes)}
    failed = {
        "outputs are missing": outputs != jobs,
        "jobs did not complete": sum(bool(each.ends) for each in attempts.values()) != jobs,
        "jobs completed more than once": set(twice) != excused,
    }
    return failed, {
        "outputs": outputs,
        "jobs": jobs,
        "completed_more_than_once": {name: ends for name, ends in twice.items() if name not in excused},
        "interrupted_while_reporting_completion": {name: twice[name] for name in sorted(excused)},
        "started_more_than_once": sum(len(each.starts) > 1 for each in attempts.values()),
        "ran_in_several_slurm_jobs": sum(len(set(each.starts)) > 1 for each in attempts.values()),
    }


def _was_interrupted_at_its_end(
    ends: Sequence[tuple[str, float]], slurm: ThrowawaySlurm, crashes: Sequence[float]
) -> bool:
    """Return whether an interruption follows within a second after each completion of a SLURM job except its last."""
    (job, _), *others = ends
    if any(other != job for other, _ in others):
        return False
    text = slurm.run("sacct", "-nXPD", "-j", job, "-o", "JobIDRaw,State,End")
    rows = [row.split("|") for row in text.splitlines()]
    requeues = [
        datetime.fromisoformat(end).timestamp()
        for number, state, end in rows
        if number == job and state.split()[0] in ("PREEMPTED", "REQUEUED") and end != "Unknown"
    ]
    # sacct's times are in whole seconds.
    return all(
        any(at - 0.5 < crash < at + _INTERRUPTION_SECONDS for crash in crashes)
        or any(int(at) <= requeue < at + _INTERRUPTION_SECONDS for requeue in requeues)
        for _, at in ends[:-1]
    )


def check_training(folder: Path) -> tuple[dict[str, bool], dict[str, object]]:
    """Check that the curve of the training contains each step exactly once."""
    curve = [json.loads(line)["step"] for line in lines(folder / "curve.jsonl")]
    trained = int((folder / "trained.txt").read_text()) if (folder / "trained.txt").exists() else None
    failed = {
        "the curve lacks or repeats steps": curve != list(range(1, len(curve) + 1)) or trained != len(curve),
    }
    starts = sum(" rank 0 " in line for line in lines(folder / "training-starts.txt"))
    return failed, {"curve_steps": len(curve), "training_starts": starts}


def check_workflow_processes(
    exit_statuses: Sequence[int], memory_mb: Sequence[Sequence[float]]
) -> tuple[dict[str, bool], dict[str, object]]:
    """Check the exit statuses of the workflow processes, and that their memory does not grow."""
    growth = [_growth(samples) for samples in memory_mb]
    failed = {
        "a workflow process failed": any(status not in (0, -signal.SIGKILL) for status in exit_statuses),
        "the memory of a workflow process grew": any(each is not None and each > _MAX_MEMORY_GROWTH for each in growth),
    }
    return failed, {
        "exit_statuses": list(exit_statuses),
        "memory_growth": growth,
        "peak_memory_mb": max((max(samples) for samples in memory_mb if samples), default=None),
    }


def check_left_overs(
    folder: Path, queued: list[str], processes: list[str]
) -> tuple[dict[str, bool], dict[str, object]]:
    """Check that nothing is left of the workflow's jobs."""
    state = folder / ".snakemake/submitit"
    records = [str(path.relative_to(state)) for path in (state / "registry").rglob("*") if path.is_file()]
    failed = {
        "jobs are still queued": bool(queued),
        "processes are still running": bool(processes),
        "registry records are left": bool(records),
    }
    return failed, {
        "queued": list(queued),
        "processes": list(processes),
        "registry_records": records,
        "job_folders": sum(1 for name in ("jobs", "submissions") for _ in (state / name).glob("*")),
    }


def lines(path: Path) -> list[str]:
    """Return the lines of a file, or none if it does not exist."""
    return path.read_text().splitlines() if path.exists() else []


def _growth(samples: Sequence[float]) -> float | None:
    """Return the median of the last quarter relative to the first quarter, or None for fewer than eight samples."""
    quarter = len(samples) // 4
    if quarter < 2:
        return None
    return round(statistics.median(samples[-quarter:]) / statistics.median(samples[:quarter]), 3)

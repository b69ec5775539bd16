"""What the head tells of a failed job: why, which rank first, its last lines, where the logs are."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.paths import JobFolder

_LINES = 20
_BYTES = 20_000
MEANING = {
    "OUT_OF_MEMORY": "it used more memory than it asked for (mem_mb)",
    "TIMEOUT": "it reached its time limit (runtime)",
    "NODE_FAIL": "its node failed",
    "PREEMPTED": "another job took its place",
    "CANCELLED": "it was cancelled",
    "BOOT_FAIL": "its node did not start",
    "DEADLINE": "it cannot end before its deadline",
    "UNKNOWN": "SLURM does not know it any more, and its ranks recorded no result",
    "REQUEUE_REFUSED": "it saved, but SLURM does not let it requeue itself",
    "REQUEUES_SPENT": "it was requeued as often as is allowed",
}


@dataclass(frozen=True)
class Failure:
    """The first rank that failed."""

    rank: int
    host: str
    text: str
    reason: str
    log: Path


def first_failure(folder: JobFolder) -> Failure | None:
    """The earliest note of the last attempt that has any."""
    attempts = sorted(folder.root.glob("attempt-*"), key=lambda path: int(path.name.split("-")[1]), reverse=True)
    for attempt in attempts[:1]:
        notes = [json.loads(path.read_text()) for path in attempt.glob("failed-*.json")]
        if notes:
            first = min(notes, key=lambda note: note["time"])
            return Failure(first["rank"], first["host"], first["text"], first["reason"], Path(first["log"]))
    return None


def last_lines(path: Path, lines: int = _LINES) -> str:
    """The end of a log, of this attempt only."""
    if not path.exists():
        return ""
    with open(path, "rb") as file:
        file.seek(max(0, path.stat().st_size - _BYTES))
        text = file.read().decode(errors="replace")
    found = text.replace("\r", "\n").splitlines()
    starts = [i for i, line in enumerate(found) if line.startswith("== ") and ", attempt " in line]
    found = found[starts[-1] + 1 :] if starts else found
    return "\n".join(found[-lines:])


def explain(cluster: str, job_id: str, word: str, failure: Failure | None, folder: JobFolder, stdout: Path) -> str:
    """The text of Snakemake's error."""
    reason = failure.reason if failure and failure.reason else word
    meaning = MEANING.get(reason)
    head = f"{cluster} job {job_id}: {reason}" + (f", {meaning}" if meaning else "")
    if failure is None:
        log = folder.rank_log(0)
        tail = last_lines(log) or last_lines(stdout)
        where = log if log.exists() else stdout
        nothing = f"No rank left a log. Is {stdout.parent} visible on the nodes (a shared file system)?"
        return f"{head}.\nIts last lines ({where}):\n{_indented(tail)}" if tail else f"{head}.\n{nothing}"
    tail = last_lines(failure.log)
    said = f"rank {failure.rank} on {failure.host}: {failure.text}"
    return f"{head}. First to fail: {said}.\nIts last lines ({failure.log}):\n{_indented(tail)}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())

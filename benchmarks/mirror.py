"""Measure the delay and CPU use of the MLflow mirror while twenty runs write logs at the same time.

    python benchmarks/mirror.py --json

Each log grows by `--rate` points per second. At every fifth point, eight system metrics are added. The mirror
(`mem track follow`) writes all points to an embedded database. The benchmark counts the points in the database twice
per second.

The last line is JSON. `lag_s` is the longest time from writing a point to its arrival in the database. `core_share` is
the mirror's CPU use as a fraction of one core while the logs grow, excluding the mirror's startup. `points` is the
final number of points in the database. `doubled` is the number of duplicate points, and `missing` is the number of
points that did not arrive.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from mem.tracking.log import JsonLines

RUNS = 20


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="how long the logs grow, in seconds (default: %(default)s)"
    )
    parser.add_argument(
        "--rate", type=float, default=0.5, help="lines per second per log (default: %(default)s; training: 0.1 to 1)"
    )
    parser.add_argument("--json", action="store_true", help="print only the last line")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), options.seconds, options.rate, quiet=options.json)))


def measure(folder: Path, seconds: float, rate: float, quiet: bool) -> dict[str, float]:
    """Run the mirror while the logs grow, and return the values for the last line of the output."""
    environment = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    logs = [begin(folder, number) for number in range(RUNS)]
    mirror = subprocess.Popen(
        [sys.executable, "-m", "mem.cli", "track", "follow"],
        cwd=folder,
        env=environment,
        stderr=subprocess.DEVNULL,
    )
    process = psutil.Process(mirror.pid)
    try:
        write(logs, step=1)
        while arrived(folder) < RUNS:
            time.sleep(0.5)
        before, began = cpu(process), time.monotonic()
        written = {1: began}
        step, lag, share = 1, 0.0, 0.0
        while time.monotonic() < began + seconds or arrived(folder) < step * RUNS:
            now = time.monotonic()
            if now < began + seconds and now >= began + step / rate:
                step += 1
                write(logs, step)
                written[step] = now
            # All points of a step are written together, so the number of points shows which steps have arrived.
            complete = arrived(folder) // RUNS
            waiting = [moment for number, moment in written.items() if number > complete]
            lag = max([lag, *(time.monotonic() - moment for moment in waiting)])
            if now < began + seconds:
                share = (cpu(process) - before) / (now - began) if now > began else 0.0
            if not quiet:
                print(f"{now - began:6.1f} s  step {step}  complete {complete}  core {100 * share:.1f} %", flush=True)
            time.sleep(0.5)
        mirror.terminate()
        mirror.wait(60)
        points, distinct = counts(folder)
        return {
            "lag_s": round(lag, 2),
            "core_share": round(share, 4),
            "runs": RUNS,
            "points": points,
            "doubled": points - distinct,
            "missing": step * RUNS - distinct,
        }
    finally:
        mirror.kill()
        mirror.wait()
        for log in logs:
            log.close()


def begin(folder: Path, number: int) -> JsonLines:
    """Create a log for a new run."""
    log = JsonLines(folder / "runs" / "set" / "vit" / f"pretrain-{number:012d}" / "log.jsonl")
    log.event(
        "start",
        stage="pretrain",
        key=f"{number:012d}",
        dataset="set",
        backbone="vit",
        labels={"order": 0, "seed": number},
        seed=number,
        settings={"pretrain": {"epochs": 100}},
        inputs={},
        git={"commit": "abc", "dirty": False},
        machine={"host": "here", "slurm": None},
        versions={},
    )
    return log


def write(logs: list[JsonLines], step: int) -> None:
    """Write one point to each log and, at every fifth step, system metrics."""
    for log in logs:
        log.scalars({"train/loss": 1 / step}, step)
        if step % 5 == 0:
            log.scalars({f"system/{name}": float(step) for name in "abcdefgh"}, step // 5)


def cpu(process: psutil.Process) -> float:
    """Return the CPU time of a process in seconds."""
    times = process.cpu_times()
    return times.user + times.system


def arrived(folder: Path) -> int:
    """Return the number of points in the database."""
    return counts(folder)[0]


def counts(folder: Path) -> tuple[int, int]:
    """Return the number of points and the number of distinct points in the database."""
    path = folder / "runs" / "mlflow.db"
    if not path.exists():
        return 0, 0
    with (
        contextlib.suppress(sqlite3.OperationalError),
        contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=5)) as database,
    ):
        every = database.execute("select count(*) from metrics where key = 'train/loss'").fetchone()[0]
        different = database.execute(
            "select count(*) from (select distinct run_uuid, step from metrics where key = 'train/loss')"
        ).fetchone()[0]
        return every, different
    return 0, 0  # MLflow is still creating the tables


if __name__ == "__main__":
    main()

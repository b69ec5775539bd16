"""The executor plugin against Snakemake's official SLURM plugin, on a real SLURM.

    python benchmarks/executor.py --json

Both run the same jobs in one call: 100 that each write a line. The official plugin runs twice, with its job arrays and
without, with its quickest polling; its better time counts. Then 1,000 jobs are submitted on hold, and the
head's memory and its queries to the scheduler are counted, and cancelled by Ctrl-C. Where no SLURM is found, the
throw-away one is started for the time (root, Debian's packages).

The last line is {"vs_slurm_plugin": ours/theirs in seconds, "head_mb_at_1000": ..., "queries_per_poll": ...}.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1]))
from cluster.throwaway import ThrowawaySlurm

SNAKEFILE = """\
rule all:
    input:
        expand("out/{number}.txt", number=range(config["jobs"])),
    localrule: True

rule write:
    output:
        "out/{number}.txt",
    resources:
        mem_mb=800,
        runtime=10,
    shell:
        "echo {wildcards.number} > {output}"
"""
QUERIES = ("sacct", "squeue", "scontrol", "sinfo", "sacctmgr")
INTERVAL_SECONDS = 5
"""Between two polls while 1,000 jobs wait."""
WATCHED_SECONDS = 40
OFFICIAL = ["--executor", "slurm", "--slurm-init-seconds-before-status-checks", "1", "--slurm-no-account"]
"""Its fastest polling: each second while jobs end. No look-up of the account."""
ARRAYS = ["--slurm-array-jobs", "all", "--slurm-array-limit", "34"]
"""Arrays as large as version 2.8.0 can submit: the commands of more do not fit into one argument, and then all fail."""


def main() -> int:
    """Measure, print."""
    asked = _parser().parse_args()
    own = ["--executor", asked.executor]
    place = Path("build")  # on a cluster, of the folder that nodes share
    place.mkdir(exist_ok=True)
    with _some_slurm() as environment, tempfile.TemporaryDirectory(prefix="executor-", dir=place.resolve()) as name:
        bench = Bench(Path(name), environment, json_only=asked.json)
        bench.keep_slurm_conf_for_srun()
        contestants = {
            asked.executor: lambda: bench.workflow(asked.jobs, own),
            "slurm, arrays": lambda: bench.workflow(asked.jobs, [*OFFICIAL, *ARRAYS]),
            "slurm, single jobs": lambda: bench.workflow(asked.jobs, OFFICIAL),
            "plain sbatch": lambda: bench.plain_sbatch(asked.jobs),
        }
        seconds = {contestant: [] for contestant in contestants}
        for _ in range(asked.repeats):
            for contestant, run in contestants.items():
                seconds[contestant].append(run())
                bench.say(f"{contestant:<20} {asked.jobs} jobs in {seconds[contestant][-1]:6.1f} s")
        median = {contestant: statistics.median(times) for contestant, times in seconds.items()}
        theirs = min(median["slurm, arrays"], median["slurm, single jobs"])
        added = (median[asked.executor] - median["plain sbatch"]) / asked.jobs
        bench.say(f"added to a job over plain sbatch: {added:.2f} s (all jobs' time, divided by their number)")
        megabytes, per_poll = bench.thousand(asked.held, own)
    result = {
        "vs_slurm_plugin": round(median[asked.executor] / theirs, 3),
        "head_mb_at_1000": round(megabytes, 1),
        "queries_per_poll": round(per_poll, 2),
    }
    print(json.dumps(result))
    return 0


class Bench:
    """A folder of its own for each run, and a SLURM."""

    def __init__(self, folder: Path, environment: dict[str, str], *, json_only: bool) -> None:
        self.folder = folder
        self.environment = environment
        self._json_only = json_only
        self._runs = 0

    def say(self, text: str) -> None:
        """Tell the user; to stderr where stdout is for the figures alone."""
        print(text, file=sys.stderr if self._json_only else sys.stdout, flush=True)

    def keep_slurm_conf_for_srun(self) -> None:
        """The official plugin's jobs drop SLURM_CONF before they call srun: give them an srun that knows it."""
        if "SLURM_CONF" in self.environment:
            folder = self.folder / "srun"
            folder.mkdir()
            shim = folder / "srun"
            shim.write_text(
                f'#!/bin/sh\nSLURM_CONF={self.environment["SLURM_CONF"]} exec {shutil.which("srun")} "$@"\n'
            )
            shim.chmod(0o755)
            self.environment["PATH"] = f"{folder}:{self.environment['PATH']}"

    def workflow(self, jobs: int, options: Sequence[str]) -> float:
        """Seconds from the start of snakemake to its end, all outputs being there."""
        place = self._place()
        began = time.monotonic()
        done = subprocess.run(
            self._snakemake(jobs, options), cwd=place, env=self.environment, capture_output=True, text=True, check=False
        )
        took = time.monotonic() - began
        made = len(list((place / "out").glob("*.txt"))) if (place / "out").is_dir() else 0
        if done.returncode != 0 or made != jobs:
            raise SystemExit(f"snakemake {' '.join(options)}: {made} of {jobs} outputs\n{done.stderr[-3000:]}")
        return took

    def plain_sbatch(self, jobs: int) -> float:
        """Seconds for the same commands as one sbatch each, until the last has ended."""
        place = self._place()
        (place / "out").mkdir()
        began = time.monotonic()
        numbers = [
            self._ask("sbatch", "--parsable", "--mem=800", "--time=10", "--output=/dev/null", f"--chdir={place}",
                      f"--wrap=echo {number} > out/{number}.txt").strip()
            for number in range(jobs)
        ]  # fmt: skip
        while self._ask("squeue", "--noheader", f"--jobs={','.join(numbers)}"):
            time.sleep(0.5)
        return time.monotonic() - began

    def thousand(self, jobs: int, options: Sequence[str]) -> tuple[float, float]:
        """Peak memory of a head with that many jobs in the queue, in MB, and its queries per poll."""
        place = self._place()
        record = place / "queries.txt"
        environment = {**self.environment, "PATH": f"{self._shims(place, record)}:{self.environment['PATH']}"}
        held = ["--submitit-extra=--hold"] if "submitit" in options else []
        polling = ["--seconds-between-status-checks", str(INTERVAL_SECONDS)]
        with open(place / "head.txt", "w") as out:
            head = subprocess.Popen(
                self._snakemake(jobs, [*options, *held, *polling]),
                cwd=place, env=environment, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        try:
            began = time.monotonic()
            self._wait(lambda: self._queued() >= jobs, head, place, f"{jobs} jobs are not in the queue")
            self.say(f"{jobs} jobs in the queue after {time.monotonic() - began:.1f} s")
            time.sleep(2 * INTERVAL_SECONDS)  # the last polls of the submission are over
            first = len(record.read_text().splitlines())
            peak, until = 0, time.monotonic() + WATCHED_SECONDS
            while time.monotonic() < until:
                peak = max(peak, psutil.Process(head.pid).memory_info().rss)
                time.sleep(0.2)
            lines = record.read_text().splitlines()[first:]
        finally:
            head.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                head.wait(120)
            head.kill()
        self._wait(lambda: self._queued() == 0, None, place, "jobs are left after Ctrl-C")
        polls = _polls([float(line.split()[0]) for line in lines])
        self.say(f"{len(lines)} queries in {len(polls)} polls, at most {max(polls)} in one; head {peak / 1e6:.0f} MB")
        return peak / 1e6, len(lines) / len(polls)

    def _snakemake(self, jobs: int, options: Sequence[str]) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", "--snakefile", str(self.folder / "Snakefile"), "--jobs", "2000",
            "--config", f"jobs={jobs}", "--latency-wait", "20", "--max-status-checks-per-second", "100",
            "--default-resources", "slurm_partition=main", *options,
        ]  # fmt: skip

    def _place(self) -> Path:
        (self.folder / "Snakefile").write_text(SNAKEFILE)
        self._runs += 1
        place = self.folder / f"run{self._runs}"
        place.mkdir()
        return place

    def _shims(self, place: Path, record: Path) -> Path:
        """Commands that note the time of each query before they do it."""
        folder = place / "shims"
        folder.mkdir()
        record.touch()
        for name in QUERIES:
            shim = folder / name
            shim.write_text(f'#!/bin/sh\necho "$(date +%s.%N) {name} $*" >> {record}\nexec {shutil.which(name)} "$@"\n')
            shim.chmod(0o755)
        return folder

    def _queued(self) -> int:
        return len(self._ask("squeue", "--noheader", "--array", "--me", "--format=%i").splitlines())

    def _wait(self, condition: Callable[[], bool], head: subprocess.Popen | None, place: Path, what: str) -> None:
        until = time.monotonic() + 300
        while not condition():
            if time.monotonic() > until or (head is not None and head.poll() is not None):
                raise SystemExit(f"{what}\n{(place / 'head.txt').read_text()[-3000:]}")
            time.sleep(0.5)

    def _ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout


def _polls(times: Sequence[float]) -> list[int]:
    """How many queries each poll made: those of one poll lie closer than half an interval."""
    counts: list[int] = []
    last = float("-inf")
    for at in times:
        if at - last > INTERVAL_SECONDS / 2:
            counts.append(0)
        counts[-1] += 1
        last = at
    if not counts:
        raise SystemExit(f"The head asked nothing in {WATCHED_SECONDS} s: it does not poll")
    return counts


@contextlib.contextmanager
def _some_slurm() -> Iterator[dict[str, str]]:
    """The environment of a SLURM: the one that is there, else a throw-away one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    if shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0:
        yield environment
    else:
        with ThrowawaySlurm() as slurm:
            yield {**environment, **slurm.environment()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", default="submitit", help="the plugin to measure (%(default)s)")
    parser.add_argument("--jobs", type=int, default=100, help="jobs of the comparison (%(default)s)")
    parser.add_argument("--held", type=int, default=1000, help="jobs submitted on hold (%(default)s)")
    parser.add_argument("--repeats", type=int, default=1, help="times each is run; medians count (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print the last line alone to stdout, the rest to stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Compare the executor plugin with Snakemake's official SLURM plugin on a real SLURM installation.

    python benchmarks/executor.py --json

Both plugins run the same 100 jobs, each of which writes one line. The official plugin polls at its shortest interval.
It is timed with and without job arrays, and the shorter time is used for the comparison. The benchmark then submits
1,000 held jobs, records the memory of the workflow process and its scheduler queries, and cancels the jobs with Ctrl-C.
If SLURM is not available, the benchmark starts the throwaway SLURM cluster, which requires root and Debian packages.

The last line is {"vs_slurm_plugin": our time / their time, "head_mb_at_1000": ..., "queries_per_poll": ...}.
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
"""Polling interval of the workflow process while 1,000 jobs are queued."""
WATCHED_SECONDS = 40
OFFICIAL = ["--executor", "slurm", "--slurm-init-seconds-before-status-checks", "1", "--slurm-no-account"]
"""Options for the official plugin: poll at the shortest interval (one second while jobs end) and look up no account."""
ARRAYS = ["--slurm-array-jobs", "all", "--slurm-array-limit", "34"]
"""Options for the largest job arrays that version 2.8.0 of the official plugin can submit.

The commands of a larger array exceed the maximum length of one argument, and all jobs of that array fail.
"""


def main() -> int:
    """Run the command line."""
    arguments = _parser().parse_args()
    ours = ["--executor", arguments.executor]
    build = Path("build")  # on a cluster, all nodes must be able to access this folder
    build.mkdir(exist_ok=True)
    with _some_slurm() as environment, tempfile.TemporaryDirectory(prefix="executor-", dir=build.resolve()) as name:
        bench = Bench(Path(name), environment, json_only=arguments.json)
        bench.keep_slurm_conf_for_srun()
        contestants = {
            arguments.executor: lambda: bench.workflow(arguments.jobs, ours),
            "slurm, arrays": lambda: bench.workflow(arguments.jobs, [*OFFICIAL, *ARRAYS]),
            "slurm, single jobs": lambda: bench.workflow(arguments.jobs, OFFICIAL),
            "plain sbatch": lambda: bench.plain_sbatch(arguments.jobs),
        }
        seconds = {contestant: [] for contestant in contestants}
        for _ in range(arguments.repeats):
            for contestant, run in contestants.items():
                seconds[contestant].append(run())
                bench.say(f"{contestant:<20} {arguments.jobs} jobs in {seconds[contestant][-1]:6.1f} s")
        median = {contestant: statistics.median(times) for contestant, times in seconds.items()}
        theirs = min(median["slurm, arrays"], median["slurm, single jobs"])
        added = (median[arguments.executor] - median["plain sbatch"]) / arguments.jobs
        bench.say(
            f"overhead per job relative to plain sbatch: {added:.2f} s (difference in total time / number of jobs)"
        )
        megabytes, per_poll = bench.queued_jobs(arguments.held, ours)
    result = {
        "vs_slurm_plugin": round(median[arguments.executor] / theirs, 3),
        "head_mb_at_1000": round(megabytes, 1),
        "queries_per_poll": round(per_poll, 2),
    }
    print(json.dumps(result))
    return 0


class Bench:
    """Runner for workflows on SLURM, each in a new folder."""

    def __init__(self, folder: Path, environment: dict[str, str], *, json_only: bool) -> None:
        self.folder = folder
        self.environment = environment
        self._json_only = json_only
        self._runs = 0

    def say(self, text: str) -> None:
        """Print a message to stdout, or to stderr if stdout is reserved for the JSON line."""
        print(text, file=sys.stderr if self._json_only else sys.stdout, flush=True)

    def keep_slurm_conf_for_srun(self) -> None:
        """Add an srun wrapper that sets SLURM_CONF, which the official plugin's jobs unset before they call srun."""
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
        """Run a workflow, check that all outputs exist, and return the run time of Snakemake in seconds."""
        run_folder = self._run_folder()
        began = time.monotonic()
        done = subprocess.run(
            self._snakemake(jobs, options),
            cwd=run_folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        took = time.monotonic() - began
        written = len(list((run_folder / "out").glob("*.txt"))) if (run_folder / "out").is_dir() else 0
        if done.returncode != 0 or written != jobs:
            raise SystemExit(f"snakemake {' '.join(options)}: {written} of {jobs} outputs exist\n{done.stderr[-3000:]}")
        return took

    def plain_sbatch(self, jobs: int) -> float:
        """Submit the same commands with one sbatch call each, and return the seconds until the last job has ended."""
        run_folder = self._run_folder()
        (run_folder / "out").mkdir()
        began = time.monotonic()
        numbers = [
            self._ask("sbatch", "--parsable", "--mem=800", "--time=10", "--output=/dev/null", f"--chdir={run_folder}",
                      f"--wrap=echo {number} > out/{number}.txt").strip()
            for number in range(jobs)
        ]  # fmt: skip
        while self._ask("squeue", "--noheader", f"--jobs={','.join(numbers)}"):
            time.sleep(0.5)
        return time.monotonic() - began

    def queued_jobs(self, jobs: int, options: Sequence[str]) -> tuple[float, float]:
        """Return the workflow process's peak memory (MB) and queries per poll while `jobs` jobs are queued."""
        run_folder = self._run_folder()
        record = run_folder / "queries.txt"
        environment = {**self.environment, "PATH": f"{self._shims(run_folder, record)}:{self.environment['PATH']}"}
        held = ["--submitit-extra=--hold"] if "submitit" in options else []
        polling = ["--seconds-between-status-checks", str(INTERVAL_SECONDS)]
        with open(run_folder / "workflow.txt", "w") as out:
            workflow = subprocess.Popen(
                self._snakemake(jobs, [*options, *held, *polling]),
                cwd=run_folder, env=environment, stdout=out, stderr=out, start_new_session=True,
            )  # fmt: skip
        try:
            began = time.monotonic()
            self._wait(lambda: self._queued() >= jobs, workflow, run_folder, f"Fewer than {jobs} jobs are queued.")
            self.say(f"{jobs} jobs queued after {time.monotonic() - began:.1f} s")
            time.sleep(2 * INTERVAL_SECONDS)  # until polls from the submission phase have ended
            first = len(record.read_text().splitlines())
            peak, until = 0, time.monotonic() + WATCHED_SECONDS
            while time.monotonic() < until:
                peak = max(peak, psutil.Process(workflow.pid).memory_info().rss)
                time.sleep(0.2)
            lines = record.read_text().splitlines()[first:]
        finally:
            workflow.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                workflow.wait(120)
            workflow.kill()
        self._wait(lambda: self._queued() == 0, None, run_folder, "Jobs remain after Ctrl-C.")
        polls = _polls([float(line.split()[0]) for line in lines])
        self.say(
            f"{len(lines)} queries in {len(polls)} polls, at most {max(polls)} per poll; "
            f"workflow process {peak / 1e6:.0f} MB"
        )
        return peak / 1e6, len(lines) / len(polls)

    def _snakemake(self, jobs: int, options: Sequence[str]) -> list[str]:
        return [
            sys.executable, "-m", "snakemake", "--snakefile", str(self.folder / "Snakefile"), "--jobs", "2000",
            "--config", f"jobs={jobs}", "--latency-wait", "20", "--max-status-checks-per-second", "100",
            "--default-resources", "slurm_partition=main", *options,
        ]  # fmt: skip

    def _run_folder(self) -> Path:
        (self.folder / "Snakefile").write_text(SNAKEFILE)
        self._runs += 1
        run_folder = self.folder / f"run{self._runs}"
        run_folder.mkdir()
        return run_folder

    def _shims(self, run_folder: Path, record: Path) -> Path:
        """Return a folder of wrapper scripts that log the time of each query and then run the real SLURM command."""
        folder = run_folder / "shims"
        folder.mkdir()
        record.touch()
        for name in QUERIES:
            shim = folder / name
            shim.write_text(f'#!/bin/sh\necho "$(date +%s.%N) {name} $*" >> {record}\nexec {shutil.which(name)} "$@"\n')
            shim.chmod(0o755)
        return folder

    def _queued(self) -> int:
        return len(self._ask("squeue", "--noheader", "--array", "--me", "--format=%i").splitlines())

    def _wait(
        self, condition: Callable[[], bool], workflow: subprocess.Popen | None, run_folder: Path, message: str
    ) -> None:
        until = time.monotonic() + 300
        while not condition():
            if time.monotonic() > until or (workflow is not None and workflow.poll() is not None):
                raise SystemExit(f"{message}\n{(run_folder / 'workflow.txt').read_text()[-3000:]}")
            time.sleep(0.5)

    def _ask(self, *command: str) -> str:
        return subprocess.run(command, env=self.environment, capture_output=True, text=True, check=True).stdout


def _polls(times: Sequence[float]) -> list[int]:
    """Return the number of queries in each poll. Queries less than half an interval apart belong to the same poll."""
    counts: list[int] = []
    last = float("-inf")
    for at in times:
        if at - last > INTERVAL_SECONDS / 2:
            counts.append(0)
        counts[-1] += 1
        last = at
    if not counts:
        raise SystemExit(f"The workflow process sent no queries within {WATCHED_SECONDS} s, so it does not poll.")
    return counts


@contextlib.contextmanager
def _some_slurm() -> Iterator[dict[str, str]]:
    """Yield the environment variables that select the existing SLURM cluster, or else a throwaway one."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path}
    if shutil.which("sinfo") and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0:
        yield environment
    else:
        with ThrowawaySlurm() as slurm:
            yield {**environment, **slurm.environment()}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--executor", default="submitit", help="plugin to measure (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=100, help="number of jobs in the comparison (default: %(default)s)")
    parser.add_argument(
        "--held", type=int, default=1000, help="number of jobs submitted on hold (default: %(default)s)"
    )
    parser.add_argument("--repeats", type=int, default=1, help="runs per plugin, of which the median is reported")
    parser.add_argument("--json", action="store_true", help="print only the last line to stdout and the rest to stderr")
    return parser


if __name__ == "__main__":
    sys.exit(main())

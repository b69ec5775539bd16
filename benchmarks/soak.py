"""Run the executor plugin for a long time while SLURM, its commands, and the workflow process fail.

    python benchmarks/soak.py --minutes 60

One workflow runs 2,000 short jobs and a two-node training on the throwaway SLURM cluster (root and Debian packages are
required). Meanwhile, the training and the short jobs are preempted, nodes crash, slurmd and slurmctld restart, every
tenth call of sbatch, squeue, sacct, scontrol and scancel fails (half of the sbatch calls fail after SLURM accepted the
job), and the workflow process is killed with SIGKILL and started again. All times derive from `--seed`.

The last line is a JSON object with the checks, the number of faults, and the memory of the workflow process. The exit
status is 1 if a check failed. The working folder is then kept: `faults.txt` lists all faults with time stamps,
`workflow-N.txt` is the output of the workflow processes, `made/N` lists the starts and ends of job N, and
`training-starts.txt` those of the training.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import psutil

import snakemake_executor_plugin_submitit

sys.path.insert(0, str(Path(__file__).parents[1]))
from benchmarks.soak_checks import check_jobs, check_left_overs, check_training, check_workflow_processes
from benchmarks.soak_faults import Faults, calls, write_wrappers
from cluster.throwaway import ThrowawaySlurm

SNAKEFILE = """\
import random

rule all:
    input:
        expand("out/{number}.txt", number=range(config["jobs"])),
        "trained.txt",
    localrule: True

rule write:
    output:
        "out/{number}.txt",
    params:
        seconds=lambda wildcards: round(2 * config["mean_seconds"] * random.Random(wildcards.number).random(), 2),
    resources:
        mem_mb=100,
        runtime=10,
        slurm_extra="--nice=1000",
    shell:
        "echo start $SLURM_JOB_ID $(date +%s.%N) >> made/{wildcards.number}; sleep {params.seconds}; "
        "echo {wildcards.number} > {output}; echo end $SLURM_JOB_ID $(date +%s.%N) >> made/{wildcards.number}"

rule train:
    output:
        "trained.txt",
    log:
        "train.log",
    priority: 1
    resources:
        nodes=2,
        tasks_per_node=1,
        mem_mb=100,
        runtime=1200,
    shell:
        "exec python soak_trainer.py 0.5 {output}"
"""
MAX_QUEUED_JOBS = 60
_JOB_OVERHEAD_SECONDS = 1.5
"""Time for which a job without any work occupies its core."""
_MAX_FAILED_WORKFLOWS = 3
_SAMPLE_SECONDS = 5.0
_STARTUP_SECONDS = 20.0
"""Time after which the memory of a new workflow process is recorded."""
_CLEANUP_SECONDS = 90


@dataclass
class WorkflowRuns:
    """What happened to the workflow processes."""

    exit_statuses: list[int] = field(default_factory=list)
    kills: int = 0
    memory_mb: list[list[float]] = field(default_factory=list)
    ended: bool = False
    """Whether the workflow completed in time."""


class Soak:
    """One workflow in one folder, with the workflow process as a child process."""

    def __init__(self, slurm: ThrowawaySlurm, folder: Path, options: argparse.Namespace) -> None:
        self.slurm = slurm
        self.folder = folder
        self.options = options
        self.seconds = 60.0 * options.minutes
        self.wrappers = folder / "wrappers"
        self.faults = Faults(slurm, folder, self.seconds, options.seed)
        self.runs = WorkflowRuns()
        self._random = random.Random(options.seed + 1)
        self._process: subprocess.Popen | None = None

    def prepare(self) -> None:
        """Write the workflow and the wrapper scripts, and copy the plugin, so that later changes have no effect."""
        (self.folder / "Snakefile").write_text(SNAKEFILE)
        (self.folder / "made").mkdir()
        shutil.copy(Path(__file__).with_name("soak_trainer.py"), self.folder)
        plugin = Path(snakemake_executor_plugin_submitit.__file__).parent
        shutil.copytree(plugin, self.folder / "plugin" / plugin.name, ignore=shutil.ignore_patterns("__pycache__"))
        write_wrappers(self.wrappers)

    def run(self) -> None:
        """Run the workflow to its end while faults occur."""
        began = time.monotonic()
        kill_times = self._kill_times()
        deadline = self.seconds + max(300.0, self.seconds / 2)
        self.faults.start()
        self._start()
        while (elapsed := time.monotonic() - began) < deadline:
            if elapsed > self.seconds:
                (self.folder / "enough").touch()
            if kill_times and elapsed > kill_times[0][0]:
                self._kill(kill_times.pop(0)[1])
            elif (status := self._wait(_SAMPLE_SECONDS)) is not None:
                self._record_exit(status)
                if status == 0:
                    self.runs.ended = True
                    return
                if sum(status != -signal.SIGKILL for status in self.runs.exit_statuses) > _MAX_FAILED_WORKFLOWS:
                    return
                self._start()

    def clean_up(self) -> None:
        """End the workflow process and cancel all jobs that are still queued."""
        self.faults.stop()
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
        for job in self.queued_jobs():
            self.slurm.run("scancel", job, check=False)

    def queued_jobs(self) -> list[str]:
        """Return the ids of this workflow's jobs that SLURM still lists as pending, running or completing."""
        rows = [line.split("|") for line in self.slurm.run("squeue", "-h", "-o", "%i|%Z").splitlines()]
        return [row[0] for row in rows if row[-1] == str(self.folder)]

    def processes(self) -> list[str]:
        """Return the running processes whose working directory is in the folder."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()).is_relative_to(self.folder):
                    found.append(f"{process.pid} {' '.join(process.cmdline())}")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def _start(self) -> None:
        options = self.options
        # Two of the eight cores run the training.
        mean_seconds = max(0.5, 0.65 * self.seconds * 6 / options.jobs - _JOB_OVERHEAD_SECONDS)
        queued = max(10, min(MAX_QUEUED_JOBS, options.jobs // 8))
        command = [
            sys.executable, "-m", "snakemake", "--executor", "submitit", "--jobs", str(queued), "--nolock",
            "--rerun-incomplete", "--keep-going", "--seconds-between-status-checks", "5", "--latency-wait", "20",
            "--max-jobs-per-timespan", "1000/1s", "--default-resources", "slurm_partition=main",
            "--submitit-retries", "20", "--config", f"jobs={options.jobs}", f"mean_seconds={mean_seconds:.2f}",
        ]  # fmt: skip
        environment = {
            **os.environ,
            **self.slurm.environment(),
            "PATH": f"{self.wrappers}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": str(self.folder / "plugin"),
        }
        number = len(self.runs.exit_statuses) + 1
        with open(self.folder / f"workflow-{number}.txt", "wb") as out:
            self._process = subprocess.Popen(
                command, cwd=self.folder, env=environment,
                stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip
        (self.wrappers / "workflow.pid").write_text(f"{self._process.pid}\n")
        self._started = time.monotonic()
        self.runs.memory_mb.append([])
        self.faults.log(f"workflow process {number} started (process id {self._process.pid})")

    def _wait(self, seconds: float) -> int | None:
        """Wait, record the memory of the workflow process, and return its exit status if it ended."""
        assert self._process is not None
        try:
            return self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            if time.monotonic() > self._started + _STARTUP_SECONDS:
                rss = psutil.Process(self._process.pid).memory_info().rss
                self.runs.memory_mb[-1].append(round(rss / 1e6, 1))
            return None

    def _record_exit(self, status: int) -> None:
        self.runs.exit_statuses.append(status)
        self.faults.log(f"workflow process {len(self.runs.exit_statuses)} ended with status {status}")

    def _kill_times(self) -> list[tuple[float, str]]:
        kinds = ["at once", "kill-before", "kill-after"]
        interval = 0.85 * self.seconds / max(1, self.options.kills)
        return [
            ((index + 0.3 + 0.7 * self._random.random()) * interval, kinds[(index + 1) % len(kinds)])
            for index in range(self.options.kills)
        ]

    def _kill(self, moment: str) -> None:
        """Kill the workflow process now or during the next call of sbatch, and start it again some seconds later."""
        assert self._process is not None
        armed = self.wrappers / moment
        status = None
        if moment != "at once":
            self.faults.log(f"{moment} is armed")
            armed.touch()
            status = self._wait(60)
        if status is None:
            armed.unlink(missing_ok=True)
            self.faults.log("workflow process killed")
            self._process.kill()
            status = self._process.wait()
        self.runs.kills += status == -signal.SIGKILL
        self._record_exit(status)
        time.sleep(self._random.uniform(0, 10))
        self._start()


def check(soak: Soak) -> dict[str, object]:
    """Return the results. The value of `failed` lists the failed checks."""
    deadline = time.monotonic() + _CLEANUP_SECONDS
    while (queued := soak.queued_jobs()) + (processes := soak.processes()) and time.monotonic() < deadline:
        time.sleep(1)
    parts = [
        check_jobs(soak.folder, soak.options.jobs, soak.slurm, soak.faults.crashes),
        check_training(soak.folder),
        check_workflow_processes(soak.runs.exit_statuses, soak.runs.memory_mb),
        check_left_overs(soak.folder, queued, processes),
    ]
    failed = {
        "the workflow did not complete in time": not soak.runs.ended,
        "faults could not be caused": bool(soak.faults.problems),
    }
    for checks, _ in parts:
        failed |= checks
    result: dict[str, object] = {"failed": [text for text, is_failed in failed.items() if is_failed]}
    for _, values in parts:
        result |= values
    return result | {
        "workflow_kills": soak.runs.kills,
        "faults": dict(soak.faults.injected),
        "fault_problems": soak.faults.problems,
        "client_calls": calls(soak.wrappers),
    }


def main() -> int:
    """Run the command line."""
    options = _parser().parse_args()
    if options.folder is None:
        Path("build").mkdir(exist_ok=True)
    folder = Path(options.folder or tempfile.mkdtemp(prefix="soak-", dir="build")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with ThrowawaySlurm() as slurm:
        soak = Soak(slurm, folder, options)
        soak.prepare()
        try:
            soak.run()
            soak.faults.stop()
            result = {"minutes": options.minutes, "seed": options.seed, **check(soak)}
        finally:
            soak.clean_up()
    (folder / "result.json").write_text(json.dumps(result, indent=2) + "\n")
    print(f"working folder: {folder}", file=sys.stderr)
    print(json.dumps(result))
    if result["failed"]:
        return 1
    if options.folder is None:
        shutil.rmtree(folder)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60, help="duration of the training (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=2000, help="number of short jobs (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all random times (default: %(default)s)")
    parser.add_argument(
        "--kills",
        type=int,
        default=5,
        help="number of SIGKILLs to the workflow process (default: %(default)s)",
    )
    parser.add_argument(
        "--folder", help="new working folder, which is kept (default: a folder in build/, removed if all checks pass)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())

"""Run small workflows with the submitit executor, as a user would."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import psutil

BIN = Path(sys.executable).parent
TESTS = Path(__file__).parent
TRAINER = TESTS / "trainer.py"
GLOO_SUM = TESTS / "gloo_sum.py"


@dataclass
class Workflow:
    """A folder with a Snakefile."""

    folder: Path
    snakefile: str
    environment: dict[str, str] = field(default_factory=dict)
    started: list[subprocess.Popen] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "Snakefile").write_text(dedent(self.snakefile))
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("SNAKEMAKE_", "SLURM_", "SBATCH_"))
        }
        self.environment = {**inherited, "PATH": f"{BIN}:{os.environ['PATH']}", **self.environment}

    def command(self, *arguments: str) -> list[str]:
        return [
            "snakemake", "--executor", "submitit", "--jobs", "50", "--nolock", "--rerun-incomplete",
            "--seconds-between-status-checks", "1", "--latency-wait", "5", *arguments,
        ]  # fmt: skip

    def run(self, *arguments: str, ok: bool = True, timeout: float = 100) -> str:
        """Run the workflow to completion and return its output."""
        process = self.start(*arguments)
        printed = process.communicate(timeout=timeout)[0]
        assert (process.returncode == 0) is ok, printed
        assert "Traceback" not in printed, printed
        return printed

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start a workflow process in a new process group."""
        process = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            preexec_fn=_default_hang_up,
        )
        self.started.append(process)
        return process

    def path(self, name: str) -> Path:
        return self.folder / name

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def job_processes(self) -> list[psutil.Process]:
        """Return the running processes whose working directory is the workflow's folder, except workflow processes."""
        excluded = {os.getpid(), *(process.pid for process in self.started)}
        found = []
        for process in psutil.process_iter():
            try:
                inside = Path(process.cwd()) == self.folder.resolve() and process.status() != psutil.STATUS_ZOMBIE
                if inside and process.pid not in excluded:
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def clean_up(self) -> None:
        """Kill all processes of the workflow that are still running."""
        for process in self.started:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            if process.stdout is not None:
                process.stdout.close()
        for process in self.job_processes():
            process.kill()


def _default_hang_up() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that were started with nohup ignore the signal


@contextmanager
def workflow_factory(folder: Path) -> Iterator[Callable[..., Workflow]]:
    """Yield a function that creates workflows. On exit, kill all processes that the workflows started."""
    created: list[Workflow] = []

    def create(snakefile: str, **environment: str) -> Workflow:
        # The name must be unique, because SLURM's database may contain jobs from an earlier run of the same test.
        name = f"workflow-{uuid.uuid4().hex[:8]}"
        created.append(Workflow(folder / name, snakefile, environment))
        return created[-1]

    yield create
    for workflow in created:
        workflow.clean_up()


def wait(condition: Callable[[], object], process: subprocess.Popen | None = None, seconds: float = 120) -> None:
    """Wait until a condition is true. Fail if the process ends first or the time limit is reached."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, f"the condition was not true within {seconds} s"
        time.sleep(0.1)


def running(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Return the processes that are still running. A zombie has ended, although nobody has waited for it yet."""
    found = []
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            if process.is_running() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found

"""Small workflows, run as a user runs them, with the executor submitit."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent

import psutil

BIN = Path(sys.executable).parent


@dataclass
class Workflow:
    """A folder with a Snakefile."""

    folder: Path
    snakefile: str
    environment: dict[str, str] = field(default_factory=dict)
    running: list[subprocess.Popen] = field(default_factory=list)

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
        """Run to the end; what it printed."""
        head = self.start(*arguments)
        said = head.communicate(timeout=timeout)[0]
        assert (head.returncode == 0) is ok, said
        assert "Traceback" not in said, said
        return said

    def start(self, *arguments: str) -> subprocess.Popen:
        """Start a head, in a process group of its own."""
        head = subprocess.Popen(
            self.command(*arguments),
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.running.append(head)
        return head

    def path(self, name: str) -> Path:
        return self.folder / name

    def text(self, name: str) -> str:
        return (self.folder / name).read_text()

    def processes(self) -> list[psutil.Process]:
        """Living processes that work in the folder, but for heads."""
        heads = {head.pid for head in self.running}
        found = []
        for process in psutil.process_iter():
            try:
                inside = Path(process.cwd()) == self.folder.resolve() and process.status() != psutil.STATUS_ZOMBIE
                if inside and process.pid not in heads and process.pid != os.getpid():
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found

    def clean_up(self) -> None:
        """End what still runs."""
        for head in self.running:
            try:
                os.killpg(head.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            head.wait()
            if head.stdout is not None:
                head.stdout.close()
        for process in self.processes():
            process.kill()

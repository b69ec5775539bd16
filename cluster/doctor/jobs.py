"""Small jobs of the doctor's, and what happens to them."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from cluster.doctor.site import Site, ask

_FILE_SECONDS = 60.0
"""How long a file written on a node may need to be seen here."""
_END_SECONDS = 30.0
"""How long a cancelled job may need to end before its folder is removed."""
_POLL_SECONDS = 0.5
_LIVE = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED", "REQUEUE_HOLD", "SUSPENDED", "STOPPED")


class JobFault(Exception):
    """A job of the doctor's did not do what it should; the text says what it did instead."""


@dataclass(frozen=True)
class TestJob:
    """A submitted job and the folder that it shares with the doctor."""

    __test__ = False
    number: str
    folder: Path
    output: Path

    def state(self) -> tuple[str, str]:
        """SLURM's word for its state, and the reason; empty once it is forgotten."""
        answer = ask("squeue", "--noheader", f"--jobs={self.number}", "--format=%T %r")
        state, _, reason = answer.output.partition(" ")
        return state, reason

    def wait_for_file(self, name: str, seconds: float) -> float:
        """Wait until the job wrote a file; the seconds it took.

        Raises:
            JobFault: It did not, or the job ended before.
        """
        began = time.monotonic()
        while not (self.folder / name).exists():
            waited = time.monotonic() - began
            state, reason = self.state()
            if state not in _LIVE:
                self._wait_here(name)
                break
            if waited > seconds:
                raise JobFault(f"job {self.number} is {state} ({reason}) after {waited:.0f} s")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - began

    def wait_for_end(self, seconds: float) -> None:
        """Wait until SLURM has done with it.

        Raises:
            JobFault: It has not in time.
        """
        began = time.monotonic()
        while (found := self.state())[0] in _LIVE:
            if time.monotonic() - began > seconds:
                raise JobFault(f"job {self.number} is {found[0]} ({found[1]}) after {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def last_words(self) -> str:
        """The end of what it printed."""
        return self.output.read_text(errors="replace").strip()[-400:] if self.output.exists() else "it printed nothing"

    def cancel(self) -> None:
        """End it, whatever it does."""
        ask("scancel", self.number)

    def _wait_here(self, name: str) -> None:
        """Wait for a file of a job that ended: file systems may be slow to show it."""
        began = time.monotonic()
        while not (self.folder / name).exists():
            if time.monotonic() - began > min(_FILE_SECONDS, 10.0 if self.output.exists() else _FILE_SECONDS):
                raise JobFault(f"job {self.number} ended without writing {name}; {self.last_words()}")
            self.folder.stat()
            time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def submitted(site: Site, name: str, script: Callable[[Path], str], *options: str) -> Iterator[TestJob]:
    """Submit a job with a folder of its own, which is removed afterwards, as is the job.

    Raises:
        JobFault: sbatch refuses.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".doctor-{name}-", dir=site.folder))
    try:
        path = folder / "job.sh"
        path.write_text(f"#!/bin/bash\n{script(folder)}\n")
        answer = ask(
            "sbatch",
            "--parsable",
            f"--job-name=doctor-{name}",
            "--time=5",
            f"--output={folder / 'output.txt'}",
            f"--chdir={site.folder}",
            *site.options(),
            *options,
            str(path),
        )
        if not answer.good:
            raise JobFault(f"sbatch refuses: {answer.complaint}")
        job = TestJob(answer.output.split(";")[0], folder, folder / "output.txt")
        try:
            yield job
        finally:
            job.cancel()
            with contextlib.suppress(JobFault):
                job.wait_for_end(_END_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

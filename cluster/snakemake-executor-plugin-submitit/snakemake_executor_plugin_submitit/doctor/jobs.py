"""Submit, monitor and clean up small test jobs."""

from __future__ import annotations

import contextlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from snakemake_executor_plugin_submitit.doctor.site import Site, run_command

_FILE_SECONDS = 60.0
"""Maximum time in seconds for a file written on a node to appear on this machine."""
_END_SECONDS = 30.0
"""Maximum time in seconds to wait for a cancelled job to end before the job's folder is removed."""
_POLL_SECONDS = 0.5
_ACTIVE_STATES = (
    "PENDING",
    "CONFIGURING",
    "RUNNING",
    "COMPLETING",
    "REQUEUED",
    "REQUEUE_HOLD",
    "SUSPENDED",
    "STOPPED",
    "UNKNOWN",
)


class TestJobError(Exception):
    """A test job did not behave as expected. The message describes what happened."""

    __test__ = False


@dataclass(frozen=True)
class TestJob:
    """A submitted job and the folder that it shares with the doctor."""

    __test__ = False
    job_id: str
    folder: Path
    output: Path

    def state(self) -> tuple[str, str]:
        """Return the job's state and SLURM's reason for it, or empty strings if SLURM no longer lists the job.

        If squeue fails, for example because the controller does not respond, the state is UNKNOWN.
        """
        result = run_command("squeue", "--noheader", f"--jobs={self.job_id}", "--format=%i|%T|%r")
        rows = [line.strip().split("|") for line in result.output.splitlines()]
        for row in rows:
            if len(row) == 3 and row[0] == self.job_id:
                return row[1], row[2]
        return ("", "") if result.succeeded or "Invalid job id" in result.error else ("UNKNOWN", result.error)

    def wait_for_file(self, name: str, seconds: float) -> float:
        """Wait until the job has written the file `name`, and return the elapsed seconds.

        Raises:
            TestJobError: The file did not appear in time, or the job ended without writing it.
        """
        start = time.monotonic()
        while not (self.folder / name).exists():
            waited = time.monotonic() - start
            state, reason = self.state()
            if state not in _ACTIVE_STATES:
                self._wait_for_file_of_ended_job(name)
                break
            if waited > seconds:
                raise TestJobError(f"job {self.job_id} is {state} ({reason}) after {waited:.0f} s")
            time.sleep(_POLL_SECONDS)
        return time.monotonic() - start

    def wait_for_end(self, seconds: float) -> None:
        """Wait until the job has left the queue.

        Raises:
            TestJobError: The job did not leave the queue in time.
        """
        start = time.monotonic()
        while (found := self.state())[0] in _ACTIVE_STATES:
            if time.monotonic() - start > seconds:
                raise TestJobError(f"job {self.job_id} is {found[0]} ({found[1]}) after {seconds:.0f} s")
            time.sleep(_POLL_SECONDS)

    def last_output(self) -> str:
        """Format the end of the job's output for an error message."""
        text = self.output.read_text(errors="replace").strip() if self.output.exists() else ""
        return f"the end of its output: {text[-400:]}" if text else "it printed nothing"

    def cancel(self) -> None:
        """Cancel the job."""
        run_command("scancel", self.job_id)

    def _wait_for_file_of_ended_job(self, name: str) -> None:
        """Wait for a file that an ended job may have written. On a network file system, the file may appear late."""
        start = time.monotonic()
        while not (self.folder / name).exists():
            if time.monotonic() - start > min(_FILE_SECONDS, 10.0 if self.output.exists() else _FILE_SECONDS):
                raise TestJobError(f"job {self.job_id} ended without writing {name}; {self.last_output()}")
            self.folder.stat()  # refreshes a network file system's cached directory listing
            time.sleep(_POLL_SECONDS)


@contextlib.contextmanager
def submitted(site: Site, name: str, script: Callable[[Path], str], *options: str) -> Iterator[TestJob]:
    """Submit a job with a temporary folder. On exit, cancel the job and remove the folder.

    Args:
        site: The site to submit to.
        name: Name of the test, which becomes part of the job name and the folder name.
        script: Function that returns the batch script for the given folder.
        options: Additional sbatch options.

    Raises:
        TestJobError: sbatch rejected the job, or printed no job id.
    """
    folder = Path(tempfile.mkdtemp(prefix=f".doctor-{name}-", dir=site.folder))
    try:
        path = folder / "job.sh"
        path.write_text(f"#!/bin/bash\n{script(folder)}\n")
        result = run_command(
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
        if not result.succeeded:
            raise TestJobError(f"sbatch rejected the test job: {result.error}")
        number = re.search(r"^(\d+)(;|$)", result.output, re.MULTILINE)
        if number is None:
            raise TestJobError(f"sbatch printed no job id: {result.output!r}")
        job = TestJob(number[1], folder, folder / "output.txt")
        try:
            yield job
        finally:
            job.cancel()
            with contextlib.suppress(TestJobError):
                job.wait_for_end(_END_SECONDS)
    finally:
        shutil.rmtree(folder, ignore_errors=True)

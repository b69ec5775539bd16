"""Folder lock, MLflow mirror and fork server of the Snakemake process that drives a workflow."""

from __future__ import annotations

import atexit
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import IO

from mem.jobs.fork.client import FORKED_STAGES, SERVER_VARIABLE
from mem.jobs.fork.start import ForkServer
from mem.jobs.signals import WORKFLOW_VARIABLE, describe_this_process
from mem.jobs.workflow_signals import WorkflowSignals
from mem.runs.dag import Run
from mem.runs.folder import RunFolder
from mem.runs.working_folder import claim_runs, lock_working_folder
from mem.tracking import limits

_MIRROR_LOG = Path("logs", "mlflow-mirror.log")
_FORK_SERVER_LOG = Path("logs", "fork-server.log")
_FEWEST_FORKS = 4
"""Number of runs for which a fork server is started. It imports modules only when the first run needs them."""
_OTHER_PROCESS = (
    "Two processes would start every job twice. Wait until it ends, stop it with Ctrl-C, or use another folder with "
    "--directory."
)
_QUIET_SECONDS = 10.0
"""Seconds after which a message says that the workflow process waits for the mirror."""


class WorkflowProcess:
    """Working-folder lock, MLflow mirror and fork server for the duration of a workflow.

    The kernel releases this lock when the process ends, even if the process is killed. Snakemake's built-in lock would
    remain in this case, so profiles/default disables it.
    """

    def __init__(self, root: Path, shown_root: Path = Path()) -> None:
        """Create the workflow process of a folder.

        Args:
            root: The working folder.
            shown_root: The folder as messages name it, relative to the folder in which the user started the command.
        """
        self.root = root
        self._shown_root = shown_root
        self._lock: IO[str] | None = None
        self._mirror: subprocess.Popen[bytes] | None = None
        self._fork_server: ForkServer | None = None
        self._signals: WorkflowSignals | None = None

    def start(self) -> None:
        """Acquire the lock, claim `runs/`, describe this process to its jobs in a variable, and start the mirror.

        Raises:
            UserError: Another workflow process holds the lock (the message identifies the process), or another working
                folder has the same `runs/`.
        """
        self._lock = lock_working_folder(self.root, _OTHER_PROCESS)
        claim_runs(self.root)
        os.environ[WORKFLOW_VARIABLE] = describe_this_process()
        os.environ["PYTHONSAFEPATH"] = "1"  # `python -m` in jobs does not import modules from the working folder
        self._mirror = self._start_mirror()
        atexit.register(self.stop)  # Snakemake calls no handler if it ends with an exception

    def handle_signals(self, *, stop_jobs: bool) -> None:
        """Stop the workflow on SIGINT and SIGTERM.

        Args:
            stop_jobs: Whether the jobs are child processes. An executor plugin stops its jobs itself.
        """
        self._signals = WorkflowSignals(stop_jobs=stop_jobs)
        self._signals.install()

    def start_fork_server(self, runs: Iterable[Run]) -> None:
        """Start a fork server for the heads of a study (see `mem.jobs.fork`), if many of them are not finished.

        Without a server, each command runs by itself. If the environment variable of the server is set, for example to
        `none`, no server is started.

        Args:
            runs: The runs of the study. Their jobs run on this machine.
        """
        unfinished = [
            run for run in runs if run.stage in FORKED_STAGES and not RunFolder(self.root / run.folder).finished()
        ]
        if len(unfinished) < _FEWEST_FORKS or SERVER_VARIABLE in os.environ:
            return
        try:
            self._fork_server = ForkServer(self.root / _FORK_SERVER_LOG)
        except OSError as error:
            print(f"mem: each head starts its own Python: {error}", file=sys.stderr)
            return
        os.environ[SERVER_VARIABLE] = self._fork_server.variable

    def stop(self) -> None:
        """End the fork server and the mirror."""
        server, self._fork_server = self._fork_server, None
        if server is not None:
            del os.environ[SERVER_VARIABLE]
            server.close()
        self._stop_mirror()

    def _stop_mirror(self) -> None:
        """Let the mirror send the remaining points, and wait until it ends. Print a warning if points are missing.

        If the mirror has already ended, for example because it was killed, a new mirror sends the remaining points.
        After a signal, do not wait long: the mirror continues without this process.
        """
        if self._signals is not None:
            self._signals.finish()
        mirror, self._mirror = self._mirror, None
        if mirror is None:
            return
        atexit.unregister(self.stop)
        early_status = mirror.poll()
        try:
            mirror = mirror if early_status is None else self._start_mirror()
            mirror.send_signal(signal.SIGTERM)
            if self._signals is not None and self._signals.received:
                status = self._wait_briefly(mirror)
            else:
                status = _wait_for(mirror)
        except OSError as error:
            print(f"The MLflow mirror cannot be started again: {error}", file=sys.stderr)
            status = 1
        shown_log, sync = self._shown_root / _MIRROR_LOG, self.command("mem track sync")
        if early_status is not None:
            print(
                f"The MLflow mirror ended before the workflow did ({_describe_status(early_status)}). See {shown_log}.",
                file=sys.stderr,
            )
        if status != 0:
            print(
                f"Some points were not sent to MLflow (see {shown_log}). They are in the run logs. "
                f"Run `{sync}` to send them.",
                file=sys.stderr,
            )
        elif early_status is not None:
            print(f"A new mirror sent the remaining points. To check this, run `{sync}`.", file=sys.stderr)

    def _wait_briefly(self, mirror: subprocess.Popen[bytes]) -> int:
        """Wait for the mirror after a signal. Return its status, or 0 if it continues to send points."""
        try:
            return mirror.wait(_QUIET_SECONDS)
        except subprocess.TimeoutExpired:
            print(
                f"The mirror continues to send the remaining points to MLflow for up to {limits.KILL_SECONDS:.0f} s. "
                f"Run `{self.command('mem track sync')}` later to send points that are still missing.",
                file=sys.stderr,
            )
            return 0

    def command(self, command: str) -> str:
        """Return a command that the user can run in the folder in which the workflow was started."""
        return command if self._shown_root == Path() else f"cd {shlex.quote(str(self._shown_root))} && {command}"

    def _start_mirror(self) -> subprocess.Popen[bytes]:
        log = self.root / _MIRROR_LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        # The mirror inherits the blocked signal. It receives SIGTERM when it is ready to handle it (see EndRequest).
        previous = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            with open(log, "ab") as out:
                return subprocess.Popen(  # -P: modules in the working folder do not replace installed packages
                    [sys.executable, "-P", "-m", "mem.cli", "track", "follow", "--parent", str(os.getpid())],
                    cwd=self.root,
                    stdin=subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    start_new_session=True,
                )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, previous)


def _wait_for(mirror: subprocess.Popen[bytes]) -> int:
    """Wait until the mirror ends, and return its status. Kill it at the time limit and on Ctrl-C."""
    try:
        try:
            return mirror.wait(_QUIET_SECONDS)
        except subprocess.TimeoutExpired:
            seconds = limits.KILL_SECONDS - _QUIET_SECONDS
            print(f"Sending the remaining points to MLflow, for up to {seconds:.0f} s. Press Ctrl-C to skip this.")
            return mirror.wait(seconds)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        mirror.kill()
        return mirror.wait()


def _describe_status(status: int) -> str:
    """Describe the exit status of a process."""
    return f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"

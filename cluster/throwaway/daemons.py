"""Start, record and stop daemons without affecting other processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from cluster.throwaway import private_folder
from cluster.throwaway.packages import ThrowawayError

_STOP_SECONDS = 15.0
_PROGRAMS = ("slurm", "munged", "mariadbd", "mariadb-install", "mysqld")
"""Prefixes of daemon names, to distinguish daemons from shells and pagers whose working directory is in the folder."""
_UMASK = 0o022
"""umask of all daemons, so that files that they create are not writable by other users."""
_DETACH = 'setsid "$0" "$@" >&2 & echo $!'
"""Shell script that starts a command in a new session as an orphan, which init adopts, and prints its process id."""


class Daemons:
    """The daemons that belong to a folder.

    A file in the folder records the process id and start time of each daemon. The start time distinguishes a daemon
    from a later process with the same id. If the file is missing or damaged, `unrecorded` still finds the daemons.

    Only processes of the current user count as daemons. All methods raise `ThrowawayError` if another user may have
    written the record (see `private_folder.check`).
    """

    def __init__(self, record: Path, folder: Path, logs: Path) -> None:
        self.record = record
        self.folder = folder
        self.logs = logs

    def names(self) -> list[str]:
        """Return the names of all recorded daemons, in start order. Some of these daemons may have exited."""
        return list(self._read())

    def running(self, name: str) -> psutil.Process | None:
        """Return the running process of a daemon, or None."""
        entry = self._read().get(name)
        return None if entry is None else _find_running(*entry)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> int:
        """Start a daemon in a new session, working directory and environment, and redirect its output to a file.

        Returns:
            The process id.

        Raises:
            ThrowawayError: The daemon is already running, it exited immediately, or the log folder does not exist.
        """
        if self.running(name) is not None:
            raise ThrowawayError(f"{name} is already running. Stop it first.")
        with open(private_folder.open_log(self.output_file(name)), "ab") as out:
            shell = subprocess.run(
                ["sh", "-c", _DETACH, *command],
                cwd=folder,
                env=dict(environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=out,
                umask=_UMASK,
                check=True,
            )
        pid = int(shell.stdout)
        try:
            started = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            last = self.output_file(name).read_text(errors="replace").strip()
            raise ThrowawayError(f"{name} exited immediately. Its output:\n{last}") from None
        self._write({**self._read(), name: (pid, started)})
        return pid

    def output_file(self, name: str) -> Path:
        """Return the path of the file that contains a daemon's terminal output."""
        return self.logs / f"{name}.out"

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop a daemon, kill it if it ignores the signal, and remove it from the record."""
        process = self.running(name)
        if process is not None:
            end_processes([process], number)
        self._write({other: entry for other, entry in self._read().items() if other != name})

    def unrecorded(self, folder: Path | None = None) -> list[psutil.Process]:
        """Return the unrecorded daemons whose working directory is in the folder, and their descendants.

        These are step daemons, which slurmd starts. They outlive slurmd, share its working directory and run the jobs'
        processes.
        """
        recorded = {entry[0] for entry in self._read().values()}
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            if process.pid in recorded or not _is_daemon_in(process, folder or self.folder):
                continue
            for each in (process, *_descendants(process)):
                found[each.pid] = each
        return list(found.values())

    def _read(self) -> dict[str, tuple[int, float]]:
        try:
            entries = json.loads(private_folder.read(self.record))
            return {name: (int(pid), float(started)) for name, (pid, started) in entries.items() if int(pid) > 0}
        except (FileNotFoundError, ValueError, TypeError, AttributeError):
            return {}

    def _write(self, entries: Mapping[str, tuple[int, float]]) -> None:
        # Nothing is written if the user removed the folder while the daemons were running.
        private_folder.write(self.record, json.dumps(entries, indent=2))


def end_processes(processes: Sequence[psutil.Process], number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to processes, wait, and kill the processes that are still running.

    Raises:
        ThrowawayError: A process is still running after it was killed.
    """
    remaining = list(processes)
    for each in (number, signal.SIGKILL):
        for process in remaining:
            _send(process, each)
        deadline = time.monotonic() + _STOP_SECONDS
        while remaining and time.monotonic() < deadline:
            remaining = [process for process in remaining if _is_running(process)]
            time.sleep(0.02)
    if remaining:
        names = ", ".join(str(process) for process in remaining)
        raise ThrowawayError(f"These processes are still running after SIGKILL: {names}. End them manually.")


def is_own(process: psutil.Process) -> bool:
    """Return whether the current user started the process. A setuid program belongs to the user who started it."""
    try:
        return process.uids().real == os.geteuid()
    except psutil.NoSuchProcess:
        return False


def wait_until(condition: Callable[[], bool], seconds: float, problem: str, poll_seconds: float = 0.1) -> None:
    """Wait for a condition.

    Raises:
        ThrowawayError: The condition did not become true in time. The message starts with `problem`.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ThrowawayError(f"{problem} within {seconds:.0f} s")
        time.sleep(poll_seconds)


def _find_running(pid: int, started: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        same = abs(process.create_time() - started) < 1 and is_own(process)
        return process if same and _is_running(process) else None
    except (psutil.NoSuchProcess, OverflowError):
        return None


def _is_running(process: psutil.Process) -> bool:
    """Return whether a process is running. A zombie has ended, even if its parent has not collected its status."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def _send(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        pass


def _is_daemon_in(process: psutil.Process, folder: Path) -> bool:
    try:
        named = process.name().startswith(_PROGRAMS) and is_own(process)
        return named and Path(process.cwd()).is_relative_to(folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []

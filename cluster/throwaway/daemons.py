"""Processes that outlive the one that started them, known by id and start time, and ended without touching others."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from cluster.throwaway.packages import ThrowawayError

_STOP_SECONDS = 15.0
_PROGRAMS = ("slurm", "munged", "mariadbd", "mysqld")
"""How the names of stray daemons begin: a shell or a pager that looks at the folder is none."""
_DETACH = 'setsid "$0" "$@" >&2 & echo $!'
"""Starts a command that init adopts, so that it is nobody's child, in a session of its own; prints its id."""


class Daemons:
    """The processes that belong to a folder.

    A file there holds each one's id and start time, so that an id that the system gave to another process since is
    never taken for one of ours.
    """

    def __init__(self, record: Path, folder: Path, logs: Path) -> None:
        self.record = record
        self.folder = folder
        self.logs = logs

    def names(self) -> list[str]:
        """Those that were started and not stopped, in the order of their start; they may have died since."""
        return list(self._read())

    def running(self, name: str) -> psutil.Process | None:
        """The living process of that name, or None."""
        entry = self._read().get(name)
        return None if entry is None else _alive(*entry)

    def start(self, name: str, command: Sequence[str], environment: Mapping[str, str], folder: Path) -> int:
        """Start a daemon in a session of its own, working in a folder; its terminal output goes to a log.

        Returns:
            Its process id.
        """
        if self.running(name) is not None:
            raise ThrowawayError(f"{name} is running already")
        with open(self.output(name), "ab") as out:
            shell = subprocess.run(
                ["sh", "-c", _DETACH, *command],
                cwd=folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=out,
                check=True,
            )
        pid = int(shell.stdout)
        try:
            started = psutil.Process(pid).create_time()
        except psutil.NoSuchProcess:
            last = self.output(name).read_text(errors="replace").strip()
            raise ThrowawayError(f"{name} ended at once: {last}") from None
        self._write({**self._read(), name: (pid, started)})
        return pid

    def output(self, name: str) -> Path:
        """Where a daemon's terminal output goes."""
        return self.logs / f"{name}.out"

    def stop(self, name: str, number: signal.Signals = signal.SIGTERM) -> None:
        """End a daemon, with force where it does not go by itself, and forget it."""
        process = self.running(name)
        if process is not None:
            end([process], number)
        self._write({other: entry for other, entry in self._read().items() if other != name})

    def strays(self, folder: Path | None = None) -> list[psutil.Process]:
        """Daemons that work in the folder without being recorded, and what they started.

        slurmd's step daemons outlive it, work where it does, and hold the jobs' processes.
        """
        known = {entry[0] for entry in self._read().values()}
        found: dict[int, psutil.Process] = {}
        for process in psutil.process_iter():
            if process.pid in known or not _is_daemon_in(process, folder or self.folder):
                continue
            for each in (process, *_descendants(process)):
                found[each.pid] = each
        return list(found.values())

    def _read(self) -> dict[str, tuple[int, float]]:
        if not self.record.exists():
            return {}
        return {name: (entry[0], entry[1]) for name, entry in json.loads(self.record.read_text()).items()}

    def _write(self, entries: Mapping[str, tuple[int, float]]) -> None:
        new = self.record.with_suffix(".new")
        new.write_text(json.dumps(entries, indent=2))
        new.rename(self.record)


def end(processes: Sequence[psutil.Process], number: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal, wait, and kill what is left.

    Raises:
        ThrowawayError: Some do not even end when killed.
    """
    left = list(processes)
    for each in (number, signal.SIGKILL):
        for process in left:
            _send(process, each)
        deadline = time.monotonic() + _STOP_SECONDS
        while left and time.monotonic() < deadline:
            left = [process for process in left if _lives(process)]
            time.sleep(0.02)
    if left:
        raise ThrowawayError(f"These processes do not end: {', '.join(str(process) for process in left)}")


def wait_until(condition: Callable[[], bool], seconds: float, what: str, every: float = 0.1) -> None:
    """Wait for a condition.

    Raises:
        ThrowawayError: It did not come true in time; `what` says what was waited for.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise ThrowawayError(f"{what}: waited {seconds:.0f} s")
        time.sleep(every)


def _alive(pid: int, started: float) -> psutil.Process | None:
    try:
        process = psutil.Process(pid)
        return process if abs(process.create_time() - started) < 1 and _lives(process) else None
    except psutil.NoSuchProcess:
        return None


def _lives(process: psutil.Process) -> bool:
    """Whether it still does anything: a dead one that its new parent has not buried yet does not."""
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
        return process.name().startswith(_PROGRAMS) and Path(process.cwd()).is_relative_to(folder)
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return False


def _descendants(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []

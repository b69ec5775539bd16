"""Find and end the processes of jobs, including daemons that a job started and that outlive the job."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import psutil

from cluster.throwaway.daemons import end_processes, is_own
from cluster.throwaway.packages import ThrowawayError

_END_SECONDS = 15.0
_REMOVE_SECONDS = 5.0
_POLL_SECONDS = 0.05


def in_cgroups(groups: Iterable[Path]) -> list[psutil.Process]:
    """Return the processes of all users in cgroups, which only root can add, and in all cgroups below them."""
    found: dict[int, psutil.Process] = {}
    for group in groups:
        for path in sorted(group.rglob("cgroup.procs")):
            try:
                pids = [int(line) for line in path.read_text().split()]
            except OSError:  # the cgroup was removed in the meantime
                continue
            found |= {pid: psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)}
    return _without_own(found.values())


def by_environment(slurm_conf: Path, node: str | None = None) -> list[psutil.Process]:
    """Return the current user's processes that were started with the environment of a job of this SLURM cluster.

    SLURM sets SLURM_CONF, SLURM_JOB_ID and SLURMD_NODENAME for all processes of a job. A daemon that a job started with
    `setsid` is found even if SLURM does not track it. Processes of other users are left out, because any user can set
    these variables. This SLURM cluster accepts only jobs of root.

    Args:
        slurm_conf: Path of the configuration file of the SLURM cluster.
        node: If given, return only processes of jobs on this node.
    """
    found = []
    for process in psutil.process_iter():
        if not is_own(process):
            continue
        try:
            environment = process.environ()
        except (psutil.Error, OSError):
            continue
        if environment.get("SLURM_CONF") != str(slurm_conf) or "SLURM_JOB_ID" not in environment:
            continue
        if node is None or environment.get("SLURMD_NODENAME") == node:
            found.append(process)
    return _without_own(found)


def end_all(find: Callable[[], Sequence[psutil.Process]]) -> None:
    """Kill processes until `find` returns none, because they may start others in the meantime.

    Raises:
        ThrowawayError: Processes are still running after they were killed.
    """
    deadline = time.monotonic() + _END_SECONDS
    while processes := [each for each in find() if _is_alive(each)]:
        if time.monotonic() > deadline:
            names = ", ".join(str(process) for process in processes)
            raise ThrowawayError(f"New processes of jobs start faster than they can be killed: {names}")
        end_processes(processes)


def remove_cgroup(group: Path) -> None:
    """Remove a cgroup and its children. Only folders are removed: the kernel removes the files in them.

    Raises:
        ThrowawayError: The kernel refuses to remove the cgroup, for example because processes are in it.
    """
    deadline = time.monotonic() + _REMOVE_SECONDS
    while group.exists():
        try:
            for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
                folder.rmdir()
            group.rmdir()
        except FileNotFoundError:
            continue
        except OSError as error:  # the kernel empties a cgroup shortly after its last process has ended
            if time.monotonic() > deadline:
                left = ", ".join(str(process) for process in in_cgroups([group])) or "none that is visible here"
                raise ThrowawayError(
                    f"Cannot remove the cgroup {group}: {error.strerror}. Processes in it: {left}. End them, then run "
                    "`make slurm-down` again."
                ) from None
            time.sleep(_POLL_SECONDS)


def _without_own(processes: Iterable[psutil.Process]) -> list[psutil.Process]:
    """Leave out this process and its ancestors: the user may run the command in a shell of a job."""
    own = {os.getpid(), *(parent.pid for parent in psutil.Process().parents())}
    return [process for process in processes if process.pid not in own]


def _is_alive(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False

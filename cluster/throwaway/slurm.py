"""The throwaway SLURM cluster: MUNGE, MariaDB, slurmdbd, slurmctld and one slurmd per node, all in one folder."""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from cluster.throwaway import configuration, hosts
from cluster.throwaway.configuration import ACCOUNT, PARTITIONS
from cluster.throwaway.daemons import end_processes, wait_until
from cluster.throwaway.layout import Layout, cgroups_limit_memory
from cluster.throwaway.packages import ThrowawayError, Unavailable, install_packages, unavailable_reason
from cluster.throwaway.services import Services

_CANCEL_SECONDS = 20.0


def _discard(text: str) -> None:
    """Discard a log line."""


class ThrowawaySlurm:
    """A SLURM cluster on this machine, with methods to start it, stop it and simulate failures.

    As a context manager, it starts SLURM on entry and stops it on exit, unless SLURM was already running.
    """

    account = ACCOUNT
    partitions = PARTITIONS

    def __init__(self, layout: Layout | None = None, log: Callable[[str], None] = _discard) -> None:
        self.layout = layout or Layout.load() or Layout()
        self.log = log
        self._services = Services(self.layout, log)
        self._daemons = self._services.daemons
        self._was_up = False

    @staticmethod
    def reports_out_of_memory() -> bool:
        """Return whether a job that exceeds its memory limit ends as OUT_OF_MEMORY instead of FAILED or CANCELLED."""
        return cgroups_limit_memory()

    @property
    def nodes(self) -> list[str]:
        """Node names."""
        return self.layout.nodes

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which clients (sbatch, sacct, ...) use this SLURM cluster."""
        return self._services.environment()

    def run(self, *command: str, check: bool = True) -> str:
        """Run a client command (sbatch, sacct, ...) on this SLURM cluster and return its output.

        Raises:
            ThrowawayError: The command failed and `check` is set. The message contains its error output.
        """
        return self._services.run(*command, check=check)

    def __enter__(self) -> ThrowawaySlurm:
        self._was_up = self.is_up()
        self.up()
        return self

    def __exit__(self, *_: object) -> None:
        if not self._was_up:
            self.down()

    def is_up(self) -> bool:
        """Return whether every daemon is running."""
        return all(self._daemons.running(name) for name in self._services.names())

    def up(self) -> None:
        """Install missing packages, clean up after an earlier SLURM cluster, start the daemons, and wait for the nodes.

        Raises:
            Unavailable: This machine cannot run a throwaway SLURM cluster.
            ThrowawayError: A daemon did not start. The message contains the end of the daemon's log.
        """
        install_packages(self.log)
        with self._machine_lock():
            if self.is_up():
                self.log(f"already up: {self._summary()}")
                return
            self._clear()
            try:
                self._start_all()
            except BaseException:
                self._clear(keep_logs=True)
                raise
        self.log(f"up: {self._summary()}")

    def down(self) -> None:
        """Cancel all jobs, stop the daemons, and remove all files.

        Raises:
            Unavailable: This machine cannot run a throwaway SLURM cluster.
        """
        reason = unavailable_reason()
        if reason is not None:
            raise Unavailable(reason)
        with self._machine_lock():
            if self._daemons.running("slurmctld") and self._daemons.running("munged"):
                self._cancel_all()
            self._clear()
        self.log("down: all processes have ended; the folder and the line in /etc/hosts have been removed")

    def status(self) -> list[tuple[str, int | None]]:
        """Return the name of each daemon with its process id, or with None if the daemon is not running."""
        found = []
        for name in self._services.names():
            process = self._daemons.running(name)
            found.append((name, None if process is None else process.pid))
        return found

    def kill_slurmd(self, node: str) -> None:
        """Simulate a node crash: kill the node's slurmd and all processes that slurmd started."""
        process = self._daemons.running(f"slurmd {node}")
        if process is None:
            raise ThrowawayError(f"slurmd on node {node} is not running. Start it first.")
        self._daemons.stop(f"slurmd {node}", signal.SIGKILL)
        end_processes(self._daemons.unrecorded(self.layout.spool(node)), signal.SIGKILL)

    def stop_slurmd(self, node: str, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop only a node's slurmd. The node's jobs continue, because their step daemons are separate processes."""
        self._daemons.stop(f"slurmd {node}", number)

    def start_slurmd(self, node: str, *, rebooted: bool = False) -> None:
        """Start a node's slurmd, and wait until the node accepts jobs.

        Args:
            node: Name of the node.
            rebooted: Whether slurmd reports that the node was rebooted, as after a real crash. SLURM then knows that
                all jobs on the node have ended.
        """
        self._services.start_slurmd(node, rebooted=rebooted)
        self._services.wait_for_nodes([node])

    def restart_slurmctld(self) -> None:
        """Restart slurmctld, which restores its saved state."""
        self._daemons.stop("slurmctld")
        self._services.start_slurmctld()

    def stop_slurmdbd(self) -> None:
        """Stop slurmdbd. Until slurmdbd runs again, sacct fails and slurmctld keeps the accounting records."""
        self._daemons.stop("slurmdbd")

    def start_slurmdbd(self) -> None:
        """Start slurmdbd after `stop_slurmdbd`."""
        self._services.start_slurmdbd()

    def _summary(self) -> str:
        layout = self.layout
        return (
            f"nodes {' '.join(self.nodes)} with {layout.cores_per_node} cores and {layout.memory_mb} MB each, "
            f"partitions {' '.join(PARTITIONS)}, account {ACCOUNT}"
        )

    def _start_all(self) -> None:
        layout = self.layout
        layout.create()
        configuration.write(layout)
        hosts.add(self.nodes)
        self._services.start_munged()
        self._services.start_mariadb()
        self._services.start_slurmdbd()
        self.run("sacctmgr", "-i", "add", "cluster", "throwaway")
        self.run("sacctmgr", "-i", "add", "account", ACCOUNT, "Description=studies", "Organization=throwaway")
        self.run("sacctmgr", "-i", "add", "user", "root", f"Account={ACCOUNT}", f"DefaultAccount={ACCOUNT}")
        self._services.start_slurmctld()
        for node in self.nodes:
            self._services.start_slurmd(node)
        self._services.wait_for_nodes(self.nodes)

    def _cancel_all(self) -> None:
        """Cancel all jobs with scancel. `_clear` later kills the processes of jobs that do not end."""
        with contextlib.suppress(ThrowawayError, subprocess.TimeoutExpired):
            self.run("scancel", "--user=root")
            wait_until(lambda: not self.run("squeue", "-h"), _CANCEL_SECONDS, "jobs did not end")

    def _clear(self, keep_logs: bool = False) -> None:
        """End all processes of this SLURM cluster, recorded or not, and remove all files."""
        names = self._daemons.names()
        for name in reversed(names):
            self._daemons.stop(name)
        end_processes(self._daemons.unrecorded(), signal.SIGKILL)
        for node in {*self.nodes, *(name.removeprefix("slurmd ") for name in names if name.startswith("slurmd "))}:
            _remove_cgroup(self.layout.memory_cgroup(node))
        hosts.remove()
        if not self.layout.folder.exists():
            return
        for path in self.layout.folder.iterdir():
            if keep_logs and path == self.layout.logs:
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        if not keep_logs:
            self.layout.folder.rmdir()

    @contextlib.contextmanager
    def _machine_lock(self) -> Iterator[None]:
        """Allow only one `up` or `down` at a time on the machine."""
        with open(hosts.HOSTS) as file:  # an existing file, so that no lock file remains
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _remove_cgroup(group: Path) -> None:
    """Remove a cgroup and its children. Only folders are removed: the kernel removes the files in them."""
    if group.exists():
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()

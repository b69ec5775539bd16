"""The throwaway SLURM cluster: MUNGE, MariaDB, slurmdbd, slurmctld and one slurmd per node, all in one folder."""

from __future__ import annotations

import contextlib
import signal
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from cluster.throwaway import configuration, hosts, job_processes, private_folder
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

    Root runs and kills what the folder's files specify. Every method therefore raises `ThrowawayError` if another user
    may have written them (see `private_folder.check`).
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
        private_folder.check(self.layout.folder)
        install_packages(self.log)
        with hosts.locked():
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
        with hosts.locked():
            if self._daemons.running("slurmctld") and self._daemons.running("munged"):
                self._cancel_all()
            self._clear()
        self.log(
            "down: all processes have ended; the folder and the line in /etc/hosts have been removed. Run "
            "`unset SLURM_CONF` in shells that use it"
        )

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
        job_processes.end_all(lambda: job_processes.by_environment(self.layout.slurm_conf, node))
        job_processes.end_all(lambda: job_processes.in_cgroups([self.layout.memory_cgroup(node)]))

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
        """End all processes of this SLURM cluster and of an earlier one in the same folder, and remove all files.

        Raises:
            ThrowawayError: A process or a cgroup cannot be removed, a file system is mounted in the folder, or another
                user may have written its contents.
        """
        folder = self.layout.folder
        private_folder.check(folder)
        mounted = _mounts_below(folder)
        if mounted:
            raise ThrowawayError(
                f"File systems are mounted in {folder}: {', '.join(mounted)}. Unmount them, then run the command again."
            )
        names = self._daemons.names()
        nodes = {*self.nodes, *(name.removeprefix("slurmd ") for name in names if name.startswith("slurmd "))}
        earlier = Layout.load(folder)
        nodes.update(earlier.nodes if earlier else [])
        for name in reversed(names):
            self._daemons.stop(name)
        end_processes(self._daemons.unrecorded(), signal.SIGKILL)
        self._end_job_processes(nodes)
        hosts.remove()
        private_folder.remove(folder, self.layout.logs if keep_logs else None)

    def _end_job_processes(self, nodes: Iterable[str]) -> None:
        """Kill the remaining processes of jobs, and remove the cgroups in which SLURM limited their memory."""
        job_processes.end_all(lambda: job_processes.by_environment(self.layout.slurm_conf))
        if not private_folder.check(self.layout.folder) and not hosts.contains():
            return  # no trace of a throwaway SLURM cluster: the cgroups of these nodes may belong to a different SLURM
        groups = [self.layout.memory_cgroup(node) for node in nodes]
        job_processes.end_all(lambda: job_processes.in_cgroups(groups))
        for group in groups:
            job_processes.remove_cgroup(group)


def _mounts_below(folder: Path, mounts: Path = Path("/proc/self/mounts")) -> list[str]:
    """Return the mount points inside a folder."""
    points = [line.split()[1] for line in mounts.read_text().splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]

"""The throw-away SLURM: MUNGE, MariaDB, slurmdbd, slurmctld and a slurmd per node, of one private folder."""

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
from cluster.throwaway.daemons import end, wait_until
from cluster.throwaway.layout import Layout, memory_is_held_by_cgroups
from cluster.throwaway.packages import NotToBeHad, ThrowawayError, install, obstacle
from cluster.throwaway.services import Services

_CANCEL_SECONDS = 20.0


def _silent(text: str) -> None:
    """Say nothing."""


class ThrowawaySlurm:
    """Starts and stops it, and breaks it on purpose.

    As a context manager it is up inside; on leaving it is stopped, unless it was up before.
    """

    account = ACCOUNT
    partitions = PARTITIONS

    def __init__(self, layout: Layout | None = None, say: Callable[[str], None] = _silent) -> None:
        self.layout = layout or Layout.of_running() or Layout()
        self.say = say
        self._services = Services(self.layout, say)
        self._daemons = self._services.daemons
        self._was_up = False

    @staticmethod
    def says_out_of_memory() -> bool:
        """Whether a job that takes too much memory ends as OUT_OF_MEMORY here, instead of as FAILED or CANCELLED."""
        return memory_is_held_by_cgroups()

    @property
    def nodes(self) -> list[str]:
        """Names of the nodes."""
        return self.layout.nodes

    def environment(self) -> dict[str, str]:
        """What clients (sbatch, sacct, ...) need to find this SLURM and no other."""
        return self._services.environment()

    def run(self, *command: str, check: bool = True) -> str:
        """Run a client command (sbatch, sacct, ...) against this SLURM; what it printed.

        Raises:
            ThrowawayError: It failed, with what it said; only where `check`.
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
        """Whether every daemon runs."""
        return all(self._daemons.running(name) for name in self._services.expected())

    def up(self) -> None:
        """Install what is missing, clear what an earlier one left, start the daemons, wait until jobs can run.

        Raises:
            NotToBeHad: There can be none on this machine.
            ThrowawayError: With the reason, and the last lines of the log of a daemon that did not start.
        """
        install(self.say)
        with self._alone():
            if self.is_up():
                self.say(f"up already: {self._summary()}")
                return
            self._clear()
            try:
                self._start_all()
            except BaseException:
                self._clear(keep_logs=True)
                raise
        self.say(f"up: {self._summary()}")

    def down(self) -> None:
        """Cancel all jobs, stop what was started, leave nothing behind."""
        reason = obstacle()
        if reason is not None:
            raise NotToBeHad(reason)
        with self._alone():
            if self._daemons.running("slurmctld") and self._daemons.running("munged"):
                self._cancel_all()
            self._clear()
        self.say("down: every process ended, the folder and the line in /etc/hosts are gone")

    def status(self) -> list[tuple[str, int | None]]:
        """Each daemon with its process id, or None where it does not run."""
        found = []
        for name in self._services.expected():
            process = self._daemons.running(name)
            found.append((name, None if process is None else process.pid))
        return found

    def kill_slurmd(self, node: str) -> None:
        """What a crash of the node looks like: slurmd and everything that it runs are gone at once."""
        process = self._daemons.running(f"slurmd {node}")
        if process is None:
            raise ThrowawayError(f"slurmd of {node} does not run")
        self._daemons.stop(f"slurmd {node}", signal.SIGKILL)
        end(self._daemons.strays(self.layout.spool(node)), signal.SIGKILL)

    def start_slurmd(self, node: str) -> None:
        """Start a node's slurmd, and wait until the node takes jobs."""
        self._services.start_slurmd(node)
        self._services.wait_for_nodes([node])

    def restart_slurmctld(self) -> None:
        """Stop slurmctld, keeping its state, and start it again."""
        self._daemons.stop("slurmctld")
        self._services.start_slurmctld()

    def stop_slurmdbd(self) -> None:
        """Take accounting away: sacct fails, slurmctld keeps records until it is back."""
        self._daemons.stop("slurmdbd")

    def start_slurmdbd(self) -> None:
        """Bring accounting back."""
        self._services.start_slurmdbd()

    def _summary(self) -> str:
        layout = self.layout
        return (
            f"nodes {' '.join(self.nodes)} with {layout.cores_per_node} cores and {layout.memory_mb} MB each, "
            f"partitions {' '.join(PARTITIONS)}, account {ACCOUNT}"
        )

    def _start_all(self) -> None:
        layout = self.layout
        layout.make()
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
        """Let jobs end as users would; whoever does not is ended with the step daemons."""
        with contextlib.suppress(ThrowawayError, subprocess.TimeoutExpired):
            self.run("scancel", "--user=root")
            wait_until(lambda: not self.run("squeue", "-h"), _CANCEL_SECONDS, "jobs do not end")

    def _clear(self, keep_logs: bool = False) -> None:
        """End every process of the folder, recorded or not, and remove what was made."""
        names = self._daemons.names()
        for name in reversed(names):
            self._daemons.stop(name)
        end(self._daemons.strays(), signal.SIGKILL)
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
    def _alone(self) -> Iterator[None]:
        """One `up` or `down` at a time on the machine."""
        with open(hosts.HOSTS) as file:  # a file that is there anyway: the lock leaves nothing behind
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _remove_cgroup(group: Path) -> None:
    """Remove a group and those in it; their files are the kernel's, and go with them."""
    if group.exists():
        for folder in sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True):
            folder.rmdir()
        group.rmdir()

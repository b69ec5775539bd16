"""The daemons of the throwaway SLURM cluster: start them, and wait until they respond."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.throwaway import private_folder
from cluster.throwaway.daemons import Daemons, wait_until
from cluster.throwaway.layout import Layout
from cluster.throwaway.packages import ThrowawayError, find_program

_START_SECONDS = 60.0
_CLIENT_SECONDS = 30.0
_NO_VARIABLES: Mapping[str, str] = {}
_SLURM_PREFIXES = ("SLURM", "SBATCH_", "SALLOC_", "SQUEUE_", "SACCT_", "SCANCEL_", "SINFO_", "SCONTROL_", "SACCTMGR_")
"""Prefixes of environment variables that change the options of SLURM's commands, or describe a surrounding job."""


class Services:
    """The daemons of one throwaway SLURM cluster.

    Each `start_...` method returns when the daemon responds. If the daemon exits or does not respond, the method raises
    `ThrowawayError` with the end of the daemon's log.
    """

    def __init__(self, layout: Layout, log: Callable[[str], None]) -> None:
        self.layout = layout
        self.log = log
        self.daemons = Daemons(layout.process_record, layout.folder, layout.logs)

    def names(self) -> list[str]:
        """Return the names of all daemons, in start order."""
        return ["munged", "mariadbd", "slurmdbd", "slurmctld", *(f"slurmd {node}" for node in self.layout.nodes)]

    def environment(self) -> dict[str, str]:
        """Return the environment variables with which daemons and clients use this SLURM cluster.

        Raises:
            ThrowawayError: Another user may have written the configuration (see `private_folder.check`).
        """
        private_folder.check(self.layout.folder)
        return {"SLURM_CONF": str(self.layout.slurm_conf)}

    def run(self, *command: str, check: bool = True, seconds: float = _CLIENT_SECONDS) -> str:
        """Run a client command (sbatch, sacct, ...) on this SLURM cluster and return its output.

        Raises:
            ThrowawayError: The command failed and `check` is set; the message contains its error output. Or the folder
                does not exist, or another user may have written the configuration.
        """
        if not private_folder.check(self.layout.folder):
            raise ThrowawayError(f"The folder {self.layout.folder} does not exist. Run `make slurm-up` to start SLURM.")
        done = subprocess.run(
            [find_program(command[0]), *command[1:]],
            env={**_without_slurm_variables(), **self.environment()},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if check and done.returncode != 0:
            raise ThrowawayError(f"`{' '.join(command)}` failed with status {done.returncode}: {done.stderr.strip()}")
        return done.stdout.strip()

    def start_munged(self) -> None:
        """Start munged with a new key. MUNGE authenticates daemons and clients."""
        folder = self.layout.munge_socket.parent
        subprocess.run([find_program("mungekey"), "--create", f"--keyfile={self.layout.munge_key}"], check=True)
        command = [
            find_program("munged"),
            "--foreground",
            f"--socket={self.layout.munge_socket}",
            f"--key-file={self.layout.munge_key}",
            f"--log-file={self.layout.logs}/munged.log",
            f"--pid-file={folder}/munged.pid",
            f"--seed-file={folder}/munged.seed",
        ]
        self._start("munged", command)
        self._wait_for_file("munged", self.layout.munge_socket)

    def start_mariadb(self) -> None:
        """Start MariaDB with an empty accounting database and without a network port."""
        layout = self.layout
        created = subprocess.run(
            [
                find_program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={layout.database}",
                "--user=root",
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
            cwd=layout.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if created.returncode != 0:
            raise ThrowawayError(f"mariadb-install-db failed: {created.stderr.strip() or created.stdout.strip()}")
        command = [
            find_program("mariadbd"),
            "--no-defaults",
            "--user=root",
            f"--datadir={layout.database}",
            f"--socket={layout.database_socket}",
            f"--pid-file={layout.folder}/mariadb/pid",
            "--skip-networking",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",  # a crash may lose the last second of data, which is acceptable here
        ]
        self._start("mariadbd", command)
        self._wait_for_file("mariadbd", layout.database_socket)

    def start_slurmdbd(self) -> None:
        """Start slurmdbd, the accounting daemon."""
        self._start("slurmdbd", [find_program("slurmdbd"), "-D"], {"MYSQL_UNIX_PORT": str(self.layout.database_socket)})
        self._wait_for_answer("slurmdbd", "sacctmgr", "-n", "show", "cluster")

    def start_slurmctld(self) -> None:
        """Start slurmctld, the controller."""
        self._start("slurmctld", [find_program("slurmctld"), "-D"])
        self._wait_for_answer("slurmctld", "squeue")

    def start_slurmd(self, node: str, *, rebooted: bool = False) -> None:
        """Start a node's slurmd. It may respond before the node accepts jobs: call `wait_for_nodes` next."""
        command = [find_program("slurmd"), "-D", "-N", node, *(["-b"] if rebooted else [])]
        self._start(f"slurmd {node}", command, folder=self.layout.spool(node))

    def _start(
        self, name: str, command: list[str], environment: Mapping[str, str] = _NO_VARIABLES, folder: Path | None = None
    ) -> None:
        environment = {**_without_slurm_variables(), **self.environment(), **environment}
        pid = self.daemons.start(name, command, environment, folder or self.layout.folder)
        self.log(f"started {name} (process {pid}, log in {self.layout.logs})")

    def _wait_for_answer(self, name: str, *command: str) -> None:
        """Wait until a client command succeeds, which shows that the daemon responds."""
        last_error: list[str] = []

        def responds() -> bool:
            self._check_running(name)
            try:
                self.run(*command, seconds=5)
            except (ThrowawayError, subprocess.TimeoutExpired) as error:
                last_error[:] = [str(error)]
                return False
            return True

        try:
            wait_until(responds, _START_SECONDS, f"{name} did not respond")
        except ThrowawayError as error:
            raise ThrowawayError(f"{error}. {' '.join(last_error)} See its log in {self.layout.logs}.") from None

    def _wait_for_file(self, name: str, path: Path) -> None:
        def exists() -> bool:
            self._check_running(name)
            return path.exists()

        wait_until(exists, _START_SECONDS, f"{name} (log in {self.layout.logs}) did not create {path}")

    def _check_running(self, name: str) -> None:
        if self.daemons.running(name) is None:
            raise ThrowawayError(f"{name} exited. Last lines of its output and log:\n{self._last_lines(name)}")

    def wait_for_nodes(self, nodes: list[str]) -> None:
        """Wait until the given nodes accept jobs."""

        def ready() -> bool:
            for node in nodes:
                self._check_running(f"slurmd {node}")
            states = self.run("sinfo", "-h", "-N", "-o", "%N %T", "-n", ",".join(nodes), check=False)
            return bool(states) and all(
                line.split()[1] in ("idle", "mixed", "allocated") for line in states.splitlines()
            )

        wait_until(ready, _START_SECONDS, f"Nodes {' '.join(nodes)} (logs in {self.layout.logs}) did not become idle")

    def _last_lines(self, name: str, count: int = 15) -> str:
        lines: list[str] = []
        for path in (self.daemons.output_file(name), self.layout.logs / f"{name.replace(' ', '-')}.log"):
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()[-count:]
        return "\n".join(lines)


def _without_slurm_variables() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(_SLURM_PREFIXES)}

"""Starting each daemon, and knowing that it answers."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path

from cluster.throwaway.daemons import Daemons, wait_until
from cluster.throwaway.layout import Layout
from cluster.throwaway.packages import ThrowawayError, program

_START_SECONDS = 60.0
_CLIENT_SECONDS = 30.0
_NOTHING: Mapping[str, str] = {}


class Services:
    """The daemons of one SLURM: each `start_...` returns when it can be used.

    Raises, everywhere:
        ThrowawayError: A daemon ended or does not answer, with the last lines of its log.
    """

    def __init__(self, layout: Layout, say: Callable[[str], None]) -> None:
        self.layout = layout
        self.say = say
        self.daemons = Daemons(layout.processes, layout.folder, layout.logs)

    def expected(self) -> list[str]:
        """Names of the daemons of a whole SLURM, in the order of their start."""
        return ["munged", "mariadbd", "slurmdbd", "slurmctld", *(f"slurmd {node}" for node in self.layout.nodes)]

    def environment(self) -> dict[str, str]:
        """What daemons and clients need to find this SLURM and no other."""
        return {"SLURM_CONF": str(self.layout.slurm_conf)}

    def run(self, *command: str, check: bool = True, seconds: float = _CLIENT_SECONDS) -> str:
        """Run a client command (sbatch, sacct, ...) against this SLURM; what it printed.

        Raises:
            ThrowawayError: It failed, with what it said; only where `check`.
        """
        done = subprocess.run(
            [program(command[0]), *command[1:]],
            env={**os.environ, **self.environment()},
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
        """What signs the messages between daemons and clients, with a key of its own."""
        folder = self.layout.munge_socket.parent
        folder.chmod(0o755)
        subprocess.run([program("mungekey"), "--create", f"--keyfile={self.layout.munge_key}"], check=True)
        command = [
            program("munged"),
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
        """The database of accounting; new, empty, and without a port."""
        layout = self.layout
        made = subprocess.run(
            [
                program("mariadb-install-db"),
                "--no-defaults",
                f"--datadir={layout.database}",
                "--user=root",
                "--auth-root-authentication-method=socket",
                "--skip-test-db",
            ],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if made.returncode != 0:
            raise ThrowawayError(f"mariadb-install-db failed: {made.stderr.strip() or made.stdout.strip()}")
        command = [
            program("mariadbd"),
            "--no-defaults",
            "--user=root",
            f"--datadir={layout.database}",
            f"--socket={layout.database_socket}",
            f"--pid-file={layout.folder}/mariadb/pid",
            "--skip-networking",
            "--innodb-buffer-pool-size=64M",
            "--innodb-lock-wait-timeout=900",
            "--innodb-flush-log-at-trx-commit=0",  # a crash may lose a second: it is thrown away anyhow
        ]
        self._start("mariadbd", command)
        self._wait_for_file("mariadbd", layout.database_socket)

    def start_slurmdbd(self) -> None:
        """Accounting."""
        self._start("slurmdbd", [program("slurmdbd"), "-D"], {"MYSQL_UNIX_PORT": str(self.layout.database_socket)})
        self._wait_for_answer("slurmdbd", "sacctmgr", "-n", "show", "cluster")

    def start_slurmctld(self) -> None:
        """The controller."""
        self._start("slurmctld", [program("slurmctld"), "-D"])
        self._wait_for_answer("slurmctld", "squeue")

    def start_slurmd(self, node: str) -> None:
        """The daemon of a node; `wait_for_nodes` says when it takes jobs."""
        self._start(f"slurmd {node}", [program("slurmd"), "-D", "-N", node], folder=self.layout.spool(node))

    def _start(
        self, name: str, command: list[str], environment: Mapping[str, str] = _NOTHING, folder: Path | None = None
    ) -> None:
        pid = self.daemons.start(name, command, {**self.environment(), **environment}, folder or self.layout.folder)
        self.say(f"started {name} (process {pid}), log in {self.layout.logs}")

    def _wait_for_answer(self, name: str, *command: str) -> None:
        """Wait until a client command succeeds."""
        refused: list[str] = []

        def answers() -> bool:
            self._must_live(name)
            try:
                self.run(*command, seconds=5)
            except (ThrowawayError, subprocess.TimeoutExpired) as error:
                refused[:] = [str(error)]
                return False
            return True

        try:
            wait_until(answers, _START_SECONDS, f"{name} does not answer")
        except ThrowawayError as error:
            raise ThrowawayError(f"{error}; {' '.join(refused)}; its log is in {self.layout.logs}") from None

    def _wait_for_file(self, name: str, path: Path) -> None:
        def there() -> bool:
            self._must_live(name)
            return path.exists()

        wait_until(there, _START_SECONDS, f"{name} does not make {path}; its log is in {self.layout.logs}")

    def _must_live(self, name: str) -> None:
        if self.daemons.running(name) is None:
            raise ThrowawayError(f"{name} ended. Its last lines:\n{self._last_lines(name)}")

    def wait_for_nodes(self, nodes: list[str]) -> None:
        """Wait until nodes take jobs."""

        def ready() -> bool:
            for node in nodes:
                self._must_live(f"slurmd {node}")
            states = self.run("sinfo", "-h", "-N", "-o", "%N %T", "-n", ",".join(nodes), check=False)
            return bool(states) and all(
                line.split()[1] in ("idle", "mixed", "allocated") for line in states.splitlines()
            )

        wait_until(ready, _START_SECONDS, f"Nodes {' '.join(nodes)} do not become idle; see {self.layout.logs}")

    def _last_lines(self, name: str, count: int = 15) -> str:
        lines: list[str] = []
        for path in (self.daemons.output(name), self.layout.logs / f"{name.replace(' ', '-')}.log"):
            if path.exists():
                lines += path.read_text(errors="replace").splitlines()[-count:]
        return "\n".join(lines)

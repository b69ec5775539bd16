"""Where everything of the throw-away SLURM lies, and how large it is."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

FOLDER = Path("/tmp/throwaway-slurm")
"""Fixed, since there is one throw-away SLURM on a machine: it has the names n1, n2 and the ports."""
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
"""Root of the memory controller of cgroups, version 1."""


@dataclass(frozen=True)
class Layout:
    """Paths and sizes."""

    node_count: int = 2
    cores_per_node: int = 4
    gpus_per_node: int = 2
    """Copies of /dev/null that SLURM takes for GPUs: a job that asks for one gets it, and finds that it is none."""
    folder: Path = FOLDER

    @staticmethod
    def of_running(folder: Path = FOLDER) -> Layout | None:
        """The sizes of the one that was started, or None."""
        try:
            return Layout(**json.loads((folder / "layout.json").read_text()), folder=folder)
        except FileNotFoundError:
            return None

    @property
    def nodes(self) -> list[str]:
        """The nodes' names."""
        return [f"n{number}" for number in range(1, self.node_count + 1)]

    @property
    def memory_mb(self) -> int:
        """Memory of a node: its share of the machine's."""
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        return max(1000, total // self.node_count // 100 * 100)

    @property
    def slurm_conf(self) -> Path:
        """What SLURM_CONF names."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """Where clients and daemons get and check credentials."""
        return self.folder / "munge" / "munge.socket"

    @property
    def munge_key(self) -> Path:
        """The secret that daemons and clients share."""
        return self.folder / "munge" / "munge.key"

    @property
    def database(self) -> Path:
        """MariaDB's data."""
        return self.folder / "mariadb" / "data"

    @property
    def database_socket(self) -> Path:
        """MariaDB listens here, and nowhere on the network."""
        return self.folder / "mariadb" / "socket"

    @property
    def logs(self) -> Path:
        """One file per daemon."""
        return self.folder / "log"

    @property
    def processes(self) -> Path:
        """Which processes were started; see `Daemons`."""
        return self.folder / "processes.json"

    def spool(self, node: str) -> Path:
        """Where a node's slurmd keeps its own, and works."""
        return self.folder / "spool" / node

    def gpu(self, number: int) -> Path:
        """A device that SLURM takes for a GPU."""
        return self.folder / "gpus" / f"gpu{number}"

    def memory_cgroup(self, node: str) -> Path:
        """Where slurmd makes the groups that hold the jobs' memory."""
        return MEMORY_CGROUP / f"slurm_{node}"

    def make(self) -> None:
        """Make the folders, and note the sizes."""
        for name in ("etc", "gpus", "log", "mariadb", "munge", "state"):
            (self.folder / name).mkdir(parents=True, exist_ok=True)
        for node in self.nodes:
            self.spool(node).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        sizes = {name: value for name, value in asdict(self).items() if name != "folder"}
        (self.folder / "layout.json").write_text(json.dumps(sizes))


def memory_is_held_by_cgroups() -> bool:
    """Whether SLURM can hold a job's memory with cgroups here; only then it says OUT_OF_MEMORY.

    True as root where version 1 is mounted for writing. Elsewhere SLURM measures each second, and kills with the
    message "Exceeded job memory limit" and the state FAILED or CANCELLED.
    """
    return (MEMORY_CGROUP / "memory.limit_in_bytes").exists() and os.access(MEMORY_CGROUP, os.W_OK)

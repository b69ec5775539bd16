"""Paths and sizes of the throwaway SLURM cluster."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cluster.throwaway import private_folder

FOLDER = Path("/tmp/throwaway-slurm")
"""Root folder. A machine can run only one throwaway SLURM cluster, because ports and node names are fixed."""
MEMORY_CGROUP = Path("/sys/fs/cgroup/memory")
"""Root of the cgroup v1 memory controller."""


@dataclass(frozen=True)
class Layout:
    """Paths and sizes of one throwaway SLURM cluster."""

    node_count: int = 2
    cores_per_node: int = 4
    gpus_per_node: int = 2
    """Number of simulated GPUs: copies of the /dev/null device that SLURM allocates. Jobs cannot compute on them."""
    folder: Path = field(default_factory=lambda: FOLDER)

    @staticmethod
    def load(folder: Path | None = None) -> Layout | None:
        """Return the layout of the SLURM cluster that was started in the folder, or None.

        A damaged file counts as missing: an interrupted `up` or another version of this program may have written it.

        Raises:
            ThrowawayError: Another user may have written the file (see `private_folder.check`).
        """
        folder = folder or FOLDER
        try:
            sizes = json.loads(private_folder.read(folder / "layout.json"))
            return Layout(**{name: int(value) for name, value in sizes.items()}, folder=folder)
        except (FileNotFoundError, NotADirectoryError, ValueError, TypeError, AttributeError):
            return None

    @property
    def nodes(self) -> list[str]:
        """Node names: n1, n2, ..."""
        return [f"n{number}" for number in range(1, self.node_count + 1)]

    @property
    def memory_mb(self) -> int:
        """Memory per node in MB: an equal share of the machine's memory."""
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
        return max(1000, total // self.node_count // 100 * 100)

    @property
    def slurm_conf(self) -> Path:
        """Path of slurm.conf, to which the environment variable SLURM_CONF is set."""
        return self.folder / "etc" / "slurm.conf"

    @property
    def munge_socket(self) -> Path:
        """MUNGE socket through which clients and daemons authenticate each other."""
        return self.folder / "munge" / "munge.socket"

    @property
    def munge_key(self) -> Path:
        """Secret key that clients and daemons share."""
        return self.folder / "munge" / "munge.key"

    @property
    def database(self) -> Path:
        """MariaDB data folder."""
        return self.folder / "mariadb" / "data"

    @property
    def database_socket(self) -> Path:
        """MariaDB socket. MariaDB does not listen on the network."""
        return self.folder / "mariadb" / "socket"

    @property
    def logs(self) -> Path:
        """Folder with one log per daemon."""
        return self.folder / "log"

    @property
    def process_record(self) -> Path:
        """File in which `Daemons` records the processes that it started."""
        return self.folder / "processes.json"

    def spool(self, node: str) -> Path:
        """Return the spool folder of a node's slurmd, which is also its working directory."""
        return self.folder / "spool" / node

    def gpu(self, number: int) -> Path:
        """Return the path of the device file that SLURM allocates as the GPU with the given number."""
        return self.folder / "gpus" / f"gpu{number}"

    def memory_cgroup(self, node: str) -> Path:
        """Return the path of the cgroup in which a node's slurmd limits job memory."""
        return MEMORY_CGROUP / f"slurm_{node}"

    def create(self) -> None:
        """Create the folders, and write the sizes to a file that `load` reads.

        Raises:
            ThrowawayError: The folder exists, and no empty file system is mounted there.
        """
        private_folder.create(self.folder, private_folder.ENTER_MODE)
        for name in ("etc", "gpus", "munge", "spool", *(f"spool/{node}" for node in self.nodes)):
            private_folder.create(self.folder / name, private_folder.ENTER_MODE)
        for name in ("log", "mariadb", "state"):
            private_folder.create(self.folder / name)
        sizes = {name: value for name, value in asdict(self).items() if name != "folder"}
        private_folder.write(self.folder / "layout.json", json.dumps(sizes))


def cgroups_limit_memory() -> bool:
    """Return whether SLURM can limit job memory with cgroups and therefore report OUT_OF_MEMORY.

    This requires root and a writable cgroup v1 mount. Otherwise, SLURM measures job memory once per second and kills
    jobs that exceed their limit, with the message "Exceeded job memory limit" and the state FAILED or CANCELLED.
    """
    return (MEMORY_CGROUP / "memory.limit_in_bytes").exists() and os.access(MEMORY_CGROUP, os.W_OK)

"""Determine the rank of a process in its job, and let the ranks find each other."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from submitit import JobEnvironment

_MOST_PORTS_TRIED = 64


@dataclass(frozen=True)
class RankInfo:
    """The position of one rank within its job."""

    cluster: str
    job_id: str
    attempt: int
    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    first_host: str
    started: float = field(default_factory=time.time)

    @property
    def is_distributed(self) -> bool:
        """Whether the job has more than one rank."""
        return self.world_size > 1


def current_rank_info() -> RankInfo:
    """Return this process's position within its job, according to submitit's environment variables."""
    environment = JobEnvironment()
    on_slurm = environment.name() == "slurm"
    return RankInfo(
        cluster=environment.name(),
        job_id=environment.job_id,
        attempt=int(os.environ.get("SLURM_RESTART_COUNT") or 0) if on_slurm else 0,
        rank=environment.global_rank,
        world_size=environment.num_tasks,
        local_rank=environment.local_rank,
        local_world_size=environment.num_tasks // environment.num_nodes,
        first_host=environment.hostnames[0] if on_slurm else "127.0.0.1",
    )


class RendezvousError(Exception):
    """The ranks cannot connect to each other."""


@dataclass(frozen=True)
class Rendezvous:
    """Address and port on which rank 0 listens."""

    address: str
    port: int


def choose_rendezvous(info: RankInfo, ports: tuple[int, int]) -> Rendezvous:
    """Choose a random free port on this machine. A port derived from the job id could collide with that of another job.

    Raises:
        RendezvousError: All ports that were tried are in use.
    """
    first, last = ports
    candidates = random.Random().sample(range(first, last + 1), min(_MOST_PORTS_TRIED, last - first + 1))
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return Rendezvous(info.first_host, port)
    raise RendezvousError(
        f"rank 0 tried {len(candidates)} ports in the range {first}-{last}, and all are in use. "
        "Set a different range with --submitit-ports FIRST-LAST"
    )


def publish_rendezvous(rendezvous: Rendezvous, go: Path) -> None:
    """Write the rendezvous file `go`, for which the other ranks wait."""
    partial = go.with_suffix(".part")
    partial.write_text(json.dumps({"address": rendezvous.address, "port": rendezvous.port}))
    partial.rename(go)


def read_rendezvous(go: Path) -> Rendezvous | None:
    """Return the rendezvous that rank 0 published, or None if rank 0 has not published one yet.

    Raises:
        RendezvousError: The first node's name does not resolve on this node.
    """
    try:
        os.listdir(go.parent)  # refreshes the directory listing of network file systems
        found = json.loads(go.read_text())
    except FileNotFoundError:
        return None
    rendezvous = Rendezvous(found["address"], found["port"])
    try:
        socket.getaddrinfo(rendezvous.address, rendezvous.port)
    except OSError as error:
        raise RendezvousError(
            f"the name of the first node, {rendezvous.address}, does not resolve on {socket.gethostname()} ({error}), "
            "so the ranks cannot connect. Make node names resolvable through DNS or /etc/hosts"
        ) from None
    return rendezvous


def torch_variables(info: RankInfo, rendezvous: Rendezvous) -> dict[str, str]:
    """Return the environment variables for torch.distributed's `env://` initialization."""
    return {
        "MASTER_ADDR": rendezvous.address,
        "MASTER_PORT": str(rendezvous.port),
        "RANK": str(info.rank),
        "LOCAL_RANK": str(info.local_rank),
        "WORLD_SIZE": str(info.world_size),
        "LOCAL_WORLD_SIZE": str(info.local_world_size),
    }


TORCH_NAMES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")
"""Variables that a rank removes from its inherited environment before it starts the command."""


def wait_for(paths: Iterable[str], seconds: float, stop_requested: Callable[[], bool] = lambda: False) -> list[str]:
    """Wait until files appear on this node. Return the files that are missing after the given time or on a stop."""
    expected = list(paths)
    deadline = time.monotonic() + seconds
    while missing := [path for path in expected if not os.path.lexists(path)]:
        if time.monotonic() >= deadline or stop_requested():
            return missing
        time.sleep(0.2)
    return []

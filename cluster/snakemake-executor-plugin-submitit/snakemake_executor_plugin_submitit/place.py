"""Where a process stands in its job, and where the ranks meet."""

from __future__ import annotations

import json
import os
import random
import socket
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from submitit import JobEnvironment


@dataclass(frozen=True)
class Place:
    """A rank of a job."""

    cluster: str
    job_id: str
    attempt: int
    rank: int
    size: int
    local_rank: int
    local_size: int
    first_host: str
    started: float = field(default_factory=time.time)

    @property
    def several(self) -> bool:
        """Whether the job has more than one rank."""
        return self.size > 1


def here() -> Place:
    """The place that submitit's environment describes."""
    environment = JobEnvironment()
    return Place(
        cluster=environment.name(),
        job_id=environment.job_id,
        attempt=int(os.environ.get("SLURM_RESTART_COUNT") or 0) if environment.name() == "slurm" else 0,
        rank=environment.global_rank,
        size=environment.num_tasks,
        local_rank=environment.local_rank,
        local_size=environment.num_tasks // environment.num_nodes,
        first_host=environment.hostnames[0] if environment.name() == "slurm" else "127.0.0.1",
    )


class CannotMeet(Exception):
    """The ranks cannot find each other."""


@dataclass(frozen=True)
class Rendezvous:
    """Where rank 0 listens."""

    address: str
    port: int


def choose(place: Place, ports: tuple[int, int]) -> Rendezvous:
    """A free port of this machine. A number made of the job's id alone would collide now and then.

    Raises:
        CannotMeet: No port of the range is free.
    """
    first, last = ports
    candidates = random.Random().sample(range(first, last + 1), min(64, last - first + 1))
    for port in candidates:
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        return Rendezvous(place.first_host, port)
    raise CannotMeet(f"none of {len(candidates)} ports tried in {first}-{last} is free; see --submitit-ports")


def publish(rendezvous: Rendezvous, go: Path) -> None:
    """Let the other ranks start."""
    partial = go.with_suffix(".part")
    partial.write_text(json.dumps({"address": rendezvous.address, "port": rendezvous.port}))
    partial.rename(go)


def published(go: Path) -> Rendezvous | None:
    """What rank 0 published, or None if it has not yet.

    Raises:
        CannotMeet: The node's name does not resolve here.
    """
    try:
        os.listdir(go.parent)  # makes network file systems look again
        found = json.loads(go.read_text())
    except FileNotFoundError:
        return None
    rendezvous = Rendezvous(found["address"], found["port"])
    try:
        socket.getaddrinfo(rendezvous.address, rendezvous.port)
    except OSError as error:
        raise CannotMeet(
            f"the name of the first node, {rendezvous.address}, does not resolve on {socket.gethostname()} ({error}): "
            "the ranks cannot meet. Nodes must know each other's names by DNS or /etc/hosts"
        ) from None
    return rendezvous


def torch_variables(place: Place, rendezvous: Rendezvous) -> dict[str, str]:
    """The environment of torch.distributed's `env://`; whatever was inherited is overwritten."""
    return {
        "MASTER_ADDR": rendezvous.address,
        "MASTER_PORT": str(rendezvous.port),
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "WORLD_SIZE": str(place.size),
        "LOCAL_WORLD_SIZE": str(place.local_size),
    }


TORCH_NAMES = ("MASTER_ADDR", "MASTER_PORT", "RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK")


def wait_for(paths: Iterable[str], seconds: float) -> list[str]:
    """Wait until files are visible here; those that are still missing after `seconds`."""
    deadline = time.monotonic() + seconds
    while missing := [path for path in paths if not os.path.lexists(path)]:
        if time.monotonic() >= deadline:
            return missing
        time.sleep(0.2)
    return []

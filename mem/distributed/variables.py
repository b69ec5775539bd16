"""The environment variables that specify the ranks of a stage: RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and others.

A launcher such as the executor plugin or torchrun sets them. A variable with an empty value counts as unset.
"""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass

from mem.errors import UserError

_SINGLE_PROCESS = "unset {} to run a single process"


@dataclass(frozen=True)
class RankVariables:
    """The position of this process among the ranks of a stage, and the address of rank 0."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    address: str = ""
    """Name or address of the machine of rank 0. Empty for a single process."""
    port: int = 0


def read_rank_variables() -> RankVariables:
    """Return the ranks that the environment specifies.

    Raises:
        UserError: A variable is missing or invalid, the variables contradict each other, or the address is unknown.
    """
    size = _integer("WORLD_SIZE", 1)
    if size < 1:
        raise UserError(f"WORLD_SIZE is {size}; expected the number of ranks, or " + _SINGLE_PROCESS.format("it"))
    rank = _integer("RANK", 0)
    if rank and not _value("WORLD_SIZE"):
        raise UserError(
            f"RANK is {rank}, but WORLD_SIZE is not set. Set it to the number of ranks, or "
            + _SINGLE_PROCESS.format("RANK")
            + "."
        )
    if not 0 <= rank < size:
        raise UserError(
            f"RANK is {rank} and WORLD_SIZE is {size}; expected a rank from 0 to WORLD_SIZE - 1. Correct them, or "
            + _SINGLE_PROCESS.format("both")
            + "."
        )
    if size == 1:
        return RankVariables()
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not _value(name)]
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        raise UserError(
            f"WORLD_SIZE is {size}, but {', '.join(missing)} {verb} not set, so the ranks cannot connect. Set "
            f"{'it' if len(missing) == 1 else 'them'}, or " + _SINGLE_PROCESS.format("WORLD_SIZE") + "."
        )
    local_size = _integer("LOCAL_WORLD_SIZE", size)
    if local_size < 1 or size % local_size:
        raise UserError(
            f"LOCAL_WORLD_SIZE is {local_size} and WORLD_SIZE is {size}; expected the number of ranks per node, the "
            "same on every node"
        )
    local_rank = _integer("LOCAL_RANK", 0)
    if not 0 <= local_rank < local_size:
        raise UserError(
            f"LOCAL_RANK is {local_rank}; expected a number from 0 to {local_size - 1}, because this node has "
            f"{local_size} ranks"
        )
    return RankVariables(rank, size, local_rank, local_size, *_address())


def shown_rank() -> int:
    """Return the rank for the name of the log file. An invalid variable is reported when the ranks connect."""
    try:
        return max(0, _integer("RANK", 0)) if _value("WORLD_SIZE") else 0
    except UserError:
        return 0


def _address() -> tuple[str, int]:
    address, port = _value("MASTER_ADDR"), _integer("MASTER_PORT", 0)
    if not 0 < port < 2**16:
        raise UserError(f"MASTER_PORT is {port}; expected a port from 1 to 65535")
    try:
        socket.getaddrinfo(address, port)
    except OSError as error:
        raise UserError(
            f"MASTER_ADDR is {address!r}, which {socket.gethostname()} cannot resolve ({error}). Expected the name or "
            "address of the machine on which rank 0 runs"
        ) from None
    return address, port


def _value(name: str) -> str:
    return os.environ.get(name, "").strip()


def _integer(name: str, default: int) -> int:
    text = _value(name)
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise UserError(f"{name} is {text!r}; expected a whole number") from None

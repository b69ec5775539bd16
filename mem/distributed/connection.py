"""Connect the ranks of a stage: rank 0 hosts a store through which all ranks find each other."""

from __future__ import annotations

import errno
import ipaddress
import os
import queue
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from torch.distributed import PrefixStore, Store, TCPStore  # pyright: ignore[reportPrivateImportUsage]

from mem.distributed.variables import RankVariables
from mem.errors import UserError

WAIT_SECONDS = 600.0
"""Default time to wait for the other ranks."""
_FIRST_MESSAGE_SECONDS, _MESSAGE_SECONDS = 5.0, 60.0
"""Seconds until the first message about missing ranks, and between later messages."""
_STEP_SECONDS = 0.1
_CONNECT_SECONDS = 10.0
"""Time limit of torch's connection to a server that accepts connections."""


def connect(variables: RankVariables, say: Callable[[str], None], wait_seconds: float) -> Store:
    """Return the store through which the ranks find each other, after all ranks are present.

    torch waits without handling signals. Therefore, this function waits in short steps.

    Raises:
        UserError: Rank 0 cannot listen at the address, another process has the same rank, or a rank is missing after
            `wait_seconds`.
    """
    rank, size = variables.rank, variables.size
    where = f"{variables.address}:{variables.port}"
    waiting = _Waiting(say, wait_seconds, size)
    # torchrun listens at the address itself.
    hosts_store = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if hosts_store:
        server = _listen(variables)
    else:
        while not _accepts_connections(variables.address, variables.port):
            waiting.step(f"Rank {rank} of {size} waits for rank 0, which does not respond at {where}.")
        server = _store(variables)
    store = PrefixStore(f"mem/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", server)
    if store.add(f"rank {rank}", 1) > 1:
        raise UserError(f"Two processes have RANK {rank} at {where}. Give each process a different rank.")
    while missing := [other for other in range(size) if not store.check([f"rank {other}"])]:
        present = ", ".join(str(other) for other in range(size) if other not in missing)
        waiting.step(
            f"Rank {rank} of {size} waits at {where} for rank {', '.join(map(str, missing))}. Ranks present: {present}."
        )
    return store


class _Waiting:
    """Wait in steps during which signals are handled. Report what the process waits for, and stop at a time limit."""

    def __init__(self, say: Callable[[str], None], seconds: float, size: int) -> None:
        self._say, self._began, self._seconds, self._size = say, time.monotonic(), seconds, size
        self._next_message = _FIRST_MESSAGE_SECONDS

    def step(self, reason: str) -> None:
        """Wait for a moment.

        Raises:
            UserError: The time limit is reached.
        """
        waited = time.monotonic() - self._began
        advice = f"If only one process was started, unset WORLD_SIZE, which is {self._size}."
        if waited > self._seconds:
            raise UserError(f"{reason} The time limit of {self._seconds:.0f} s is reached. {advice}")
        if waited > self._next_message:
            self._next_message += _MESSAGE_SECONDS
            self._say(f"{reason} {advice}")
        time.sleep(_STEP_SECONDS)


def _listen(variables: RankVariables) -> TCPStore:
    """Create the store that the other ranks connect to.

    Raises:
        UserError: The port is in use, or the address is not that of this machine.
    """
    where = f"{variables.address}:{variables.port}"
    try:
        server = listening_socket(variables)
    except OSError as error:
        raise UserError(
            f"Rank 0 cannot listen on MASTER_PORT {variables.port} of {socket.gethostname()}: {error.strerror}. Set "
            "MASTER_PORT to a free port, the same for all ranks."
        ) from None
    if not _accepts_connections(variables.address, variables.port):
        server.close()
        raise UserError(
            f"Rank 0 on {socket.gethostname()} cannot be reached at {where}. Set MASTER_ADDR to the name or "
            "address of this machine, the same for all ranks."
        )
    return _store(variables, server)


def listening_socket(variables: RankVariables) -> socket.socket:
    """Return a socket that listens only at the address of MASTER_ADDR, because the store does not authenticate clients.

    The socket listens at all addresses of this machine if the address belongs to another one, such as a gateway, or if
    several nodes are used and this node resolves its own name to a loopback address.
    """
    family, _, _, _, found = socket.getaddrinfo(variables.address, variables.port, type=socket.SOCK_STREAM)[0]
    everywhere = ("", variables.port)
    one_node = variables.local_size == variables.size
    if ipaddress.ip_address(found[0]).is_loopback and not one_node:
        return socket.create_server(everywhere)
    try:
        return socket.create_server(found[:2], family=family)
    except OSError as error:
        if error.errno != errno.EADDRNOTAVAIL:
            raise
        return socket.create_server(everywhere)


def _store(variables: RankVariables, listener: socket.socket | None = None) -> TCPStore:
    """Create a store in a thread, because signals are not handled while torch waits for the response of a server.

    Args:
        variables: The ranks and the address of rank 0.
        listener: Socket on which the store accepts connections, or None to connect to the store of rank 0.

    Raises:
        UserError: The program at the address does not respond like a store.
    """
    arguments = (variables.address, variables.port, variables.size, listener is not None)
    options: dict[str, Any] = {"timeout": timedelta(seconds=_CONNECT_SECONDS), "wait_for_workers": False}
    if listener is not None:
        options["master_listen_fd"] = listener.detach()
    created: queue.SimpleQueue[TCPStore | RuntimeError] = queue.SimpleQueue()

    def create() -> None:
        try:
            created.put(TCPStore(*arguments, **options))
        except RuntimeError as error:
            created.put(error)

    threading.Thread(target=create, name="rendezvous", daemon=True).start()
    try:
        store = created.get(timeout=2 * _CONNECT_SECONDS)
    except queue.Empty:
        raise UserError(
            f"A program listens at {variables.address}:{variables.port}, but it is not rank 0 of this stage. Set "
            "MASTER_PORT to another port, the same for all ranks."
        ) from None
    if isinstance(store, RuntimeError):
        raise store
    return store


def first_line(error: Exception) -> str:
    """Return the message of an error of torch without the C++ stack, which follows in further lines."""
    return str(error).split("\n", 1)[0]


def _accepts_connections(address: str, port: int) -> bool:
    try:
        with socket.create_connection((address, port), timeout=1):
            return True
    except OSError:
        return False

"""The command of a stage, if a fork server runs the stage in one of its processes (see `mem.jobs.fork.server`).

The command waits for this process, forwards signals to it, and ends with its exit status. This module imports only a
few modules of the standard library, because its import is most of the command's run time.

Messages on the connection consist of a letter and a number:

- from the server or the stage: `A0` accepted, `D0` declined, `S1` or `S0` the stage handles SIGUSR2 or ignores it,
  `X`n the stage ended with exit status n, `K`n the process of the stage was killed by signal n;
- to the stage: single bytes, which are the numbers of signals.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from collections.abc import Sequence

SERVER_VARIABLE = "MEM_FORK_SERVER"
"""Set by the fork server's owner: `address host slurm-job`. The address is an abstract Unix socket's."""
FORKED_STAGES = ("train_head", "evaluate")
_ACCEPT_SECONDS = 120.0
"""Maximum time that the server needs to import its modules, on a busy machine with a slow disk."""
_INHERITED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCONT, signal.SIGUSR2)


def run_in_fork(arguments: Sequence[str]) -> int | None:
    """Let a fork server run a command, if there is a server for this process.

    Args:
        arguments: Arguments of `mem`.

    Returns:
        The exit status, or None if this process must run the command by itself.
    """
    if not arguments or arguments[0] not in FORKED_STAGES:
        return None
    address = server_address()
    if address is None:
        return None
    try:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with connection:
            connection.settimeout(_ACCEPT_SECONDS)
            connection.connect(address)
            if peer_user(connection) != os.getuid():
                return None
            _send_request(connection, arguments)
            if _message(connection) != ("A", 0):
                return None
            connection.settimeout(None)
            return _follow(connection)
    except OSError:
        return None


def server_address() -> str | None:
    """Return the address of the server for this host and SLURM job, or None if there is none."""
    words = os.environ.get(SERVER_VARIABLE, "").split()
    if len(words) != 3 or words[1:] != [socket.gethostname(), os.environ.get("SLURM_JOB_ID", "-")]:
        return None
    return f"\0{words[0]}"


def peer_user(connection: socket.socket) -> int:
    """Return the user id of the process at the other end of a Unix socket."""
    _, user, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return user


def interpreter() -> list[str]:
    """Return what the server and its client must have in common: Python, this package, and the view of the system."""
    spaces = [os.readlink(f"/proc/self/ns/{name}") for name in ("mnt", "pid")]
    return [sys.executable, sys.version, os.path.dirname(os.path.abspath(__file__)), *spaces]


def _send_request(connection: socket.socket, arguments: Sequence[str]) -> None:
    import json

    request = {
        "interpreter": interpreter(),
        "arguments": list(arguments),
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "umask": _umask(),
        "ignored": [int(number) for number in _INHERITED if signal.getsignal(number) is signal.SIG_IGN],
        "streams": [[stream.encoding, stream.errors] for stream in (sys.stdout, sys.stderr)],
        "cores": sorted(os.sched_getaffinity(0)),
    }
    content = json.dumps(request).encode()
    socket.send_fds(connection, [struct.pack("!I", len(content))], [0, 1, 2])
    connection.sendall(content)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _message(connection: socket.socket) -> tuple[str, int] | None:
    """Return the next message, or None if the other end has closed the connection."""
    received = connection.recv(2, socket.MSG_WAITALL)
    return (chr(received[0]), received[1]) if len(received) == 2 else None


def _follow(connection: socket.socket) -> int:
    """Forward signals to the stage until it ends, and return its exit status.

    SIGUSR2 is handled only while the stage handles it: the executor plugin asks only programs with a handler to save.
    """

    def forward(number: int, frame: object) -> None:
        try:
            connection.send(bytes([number]))
        except OSError:  # the stage has just ended
            pass

    signal.signal(signal.SIGTERM, forward)
    signal.signal(signal.SIGINT, forward)
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    while True:
        try:
            message = _message(connection)
        except ConnectionResetError:
            message = None
        match message:
            case ("S", handled):
                signal.signal(signal.SIGUSR2, forward if handled else signal.SIG_IGN)
            case ("X", status):
                return status
            case ("K", number):
                _end_by(number)
                return 128 + number
            case _:
                print("mem: the process of this run ended without a report of its exit status.", file=sys.stderr)
                return 1


def _end_by(number: int) -> None:
    """End this process by the signal that killed the stage, so that the caller sees the same status."""
    import resource

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(number, signal.SIG_DFL) if number != signal.SIGKILL else None
    os.kill(os.getpid(), number)

"""A request to the fork server: a command, and the state of the process that sends it."""

from __future__ import annotations

import json
import os
import socket
import struct
import sysconfig
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mem
from mem.jobs.fork.client import interpreter

_REQUEST_SECONDS = 10.0
"""Maximum time that a client needs to send its request."""
_LOAD_TIME_PREFIXES = (
    "ATEN_", "BLIS_", "CUDA_", "DNNL_", "GLIBC_", "GOMP_", "GOTO_", "KMP_", "LANG", "LC_", "LD_", "MALLOC_", "MKL_",
    "NPY_", "NUMEXPR_", "NVIDIA_", "OMP_", "ONEDNN_", "OPENBLAS_", "PYTHON", "PYTORCH_", "TORCH", "VECLIB_",
)  # fmt: skip
_SET_IN_THE_FORK = ("CUDA_VISIBLE_DEVICES", "PYTHONSAFEPATH")
"""Exceptions: nothing reads the devices before the fork, and the path of modules is never extended."""


@dataclass(frozen=True)
class Request:
    """A command to run, and what the forked process takes over from the process that sent the request."""

    arguments: Sequence[str]
    folder: str
    environment: Mapping[str, str]
    umask: int
    ignored: Sequence[int]
    """Signals that the sender ignores."""
    streams: Sequence[tuple[str, str]]
    """Encoding and error handler of standard output and of the error output."""
    cores: Sequence[int]
    """Cores on which the sender may run."""
    interpreter: Sequence[str]
    files: Sequence[int]
    """File descriptors of the sender's standard streams, in this process."""

    def close(self) -> None:
        """Close the file descriptors."""
        for file in self.files:
            os.close(file)

    def difference(self, variables: Mapping[str, str]) -> str:
        """Return why a process of this server would differ from a new process, or an empty string.

        Args:
            variables: `load_time_variables` of the environment in which the server imported its modules.
        """
        if list(self.interpreter) != interpreter():
            return "it is from another installation or container"
        own = load_time_variables(self.environment)
        different = sorted(name for name in own.keys() | variables.keys() if own.get(name) != variables.get(name))
        return f"its environment variables differ: {', '.join(different)}" if different else ""


def receive_request(connection: socket.socket) -> Request:
    """Receive a request.

    Raises:
        OSError: The connection was closed, or the sender is too slow.
        ValueError: The message is not a request.
    """
    connection.settimeout(_REQUEST_SECONDS)
    header, files, _, _ = socket.recv_fds(connection, 4, 3)
    try:
        if len(header) != 4 or len(files) != 3:
            raise ValueError("it is incomplete")
        (length,) = struct.unpack("!I", header)
        content = bytearray()
        while len(content) < length:
            part = connection.recv(min(1 << 16, length - len(content)))
            if not part:
                raise ValueError("it is incomplete")
            content += part
        fields: dict[str, Any] = json.loads(content)
        connection.settimeout(None)
        return Request(**fields, files=files)
    except (OSError, ValueError, TypeError) as error:
        for file in files:
            os.close(file)
        raise ValueError(str(error)) from error


def load_time_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables that Python and the libraries read when they start.

    Numbers of threads are omitted, because they are set in the forked process.
    """
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(_LOAD_TIME_PREFIXES) and name not in _SET_IN_THE_FORK and not name.endswith("_NUM_THREADS")
    }


def code_state() -> dict[str, tuple[int, int]]:
    """Return the modification time and the size of each module of this package, and of the folders with packages."""
    found = {}
    folders = [os.path.dirname(os.path.abspath(mem.__file__))]
    while folders:
        for entry in os.scandir(folders.pop()):
            if entry.is_dir():
                folders.append(entry.path)
            elif entry.name.endswith(".py"):
                found[entry.path] = _version(entry.stat())
    return found | {name: _version(os.stat(sysconfig.get_path(name))) for name in ("purelib", "platlib")}


def _version(status: os.stat_result) -> tuple[int, int]:
    return status.st_mtime_ns, status.st_size

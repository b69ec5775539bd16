"""Entry point of the fork server (see `mem.jobs.fork.server`): `python -m mem.cli.fork_server`.

The server prints the environment variable with which commands find it, and serves until standard input is closed.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import socket

from mem.jobs.fork.client import SERVER_VARIABLE
from mem.jobs.fork.server import Command, Server

_MODULES = (
    "mem.jobs.job",
    "mem.stages.train_head",
    "mem.stages.evaluate",
    "numpy.ctypeslib",  # imported by the first operation that needs it
    "pyarrow.parquet",
    "threadpoolctl",
)


def main() -> None:
    """Serve until standard input is closed."""
    name = f"mem-{os.urandom(16).hex()}"
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(f"\0{name}")
        listener.listen(512)
        place = f"{socket.gethostname()} {os.environ.get('SLURM_JOB_ID', '-')}"
        print(f"{SERVER_VARIABLE}={name} {place}", flush=True)
        Server(listener, import_command).serve()


def import_command() -> Command:
    """Import the modules of the stages `train_head` and `evaluate`, and return the function that runs commands."""
    from mem.cli.main import build_parser, run

    build_parser()
    for name in _MODULES:
        importlib.import_module(name)
    return run


if __name__ == "__main__":
    main()

"""Entry point of the fork server (see `mem.jobs.fork.server`).

python -m mem.cli.fork_server NAME          listen at an abstract Unix socket until standard input is closed
python -m mem.cli.fork_server -- COMMAND    run a command whose child processes use a server
"""

from __future__ import annotations

import contextlib
import importlib
import socket
import sys

from mem.jobs.fork.server import Command, Server
from mem.jobs.fork.start import ForkServer

_MODULES = (
    "mem.jobs.job",
    "mem.stages.train_head",
    "mem.stages.evaluate",
    "numpy.ctypeslib",  # imported by the first operation that needs it
    "pyarrow.parquet",
    "threadpoolctl",
)


def main() -> None:
    """Run the command line."""
    if sys.argv[1] == "--":
        ForkServer(None).exec(sys.argv[2:])
    with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as listener:
        listener.bind(f"\0{sys.argv[1]}")
        listener.listen(512)
        print("ready", flush=True)
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

"""Entry point of the command `mem`. Modules that are slow to import are imported inside the commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import mem
from mem.errors import UserError
from mem.jobs.fork.client import run_in_fork

if TYPE_CHECKING:
    import argparse


SPIN_COUNT = "1000"
"""Number of times that a thread of GNU's OpenMP looks for work before it gives up its core: 20 to 50 microseconds.

By default, threads look for milliseconds, which makes training several times slower if other processes run on the same
cores. If they never look, steps of small networks take 1.2 to 1.4 times as long (docs/performance/cpu.md)."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments specify, in a process of a fork server if there is one.

    Returns:
        The exit status.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # no child process imports modules from the working folder
    # OpenMP reads these variables when it is loaded.
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ["OMP_WAIT_POLICY"] = "passive"
        os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    status = run_in_fork(given)
    return run(given) if status is None else status


def run(arguments: Sequence[str]) -> int:
    """Run the command that the arguments specify in this process, and return its exit status."""
    from mem.cli.manage_runs import join_action
    from mem.cli.terminal import protect_terminal

    protect_terminal()
    options = build_parser().parse_args(join_action(list(arguments)))
    try:
        return options.command(options)
    except UserError as error:
        print(f"mem: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The process that reads the pipe has exited. Redirect stdout so that Python does not report a second error when
        # it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        from mem.files import USER_ERRORS, describe_os_error

        if error.errno not in USER_ERRORS:
            raise
        print(f"mem: {describe_os_error(error, Path.cwd())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser for all commands."""
    import argparse

    from mem.cli import classes, manage_runs, models, projects, stages, studies, tracking, weights

    parser = argparse.ArgumentParser(
        prog="mem",
        description=mem.__doc__,
        epilog="`mem run STUDY` runs all stages of a study in order. Each stage can also be run separately.",
    )
    parser.add_argument("--version", action="version", version=f"mem {mem.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (projects, stages, studies, manage_runs, classes, weights, models, tracking):
        group.add_commands(commands)
    return parser

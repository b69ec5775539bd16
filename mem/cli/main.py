"""Entry point of the command `mem`. Modules that are slow to import are imported inside the commands."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import mem
from mem.cli import models, stages, studies, tracking
from mem.cli.terminal import protect_terminal
from mem.errors import UserError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments specify, and return its exit status."""
    protect_terminal()
    os.environ.setdefault("PYTHONSAFEPATH", "1")  # no child process imports modules from the working folder
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser().parse_args(models.join_runs_compare(given))
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
    except KeyboardInterrupt:
        return 130


def build_parser() -> argparse.ArgumentParser:
    """Return the parser for all commands."""
    parser = argparse.ArgumentParser(
        prog="mem",
        description=mem.__doc__,
        epilog="`snakemake --cores 2`, started in the folder of the repository, runs all stages of a study in order. "
        "Each stage can also be run separately.",
    )
    parser.add_argument("--version", action="version", version=f"mem {mem.__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for group in (stages, studies, models, tracking):
        group.add_commands(commands)
    return parser

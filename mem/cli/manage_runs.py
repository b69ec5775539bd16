"""Commands that remove runs: `runs redo`, `runs rm` and `runs gc`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mem.cli.arguments import STUDY_HELP, add_run

ACTIONS = ("compare", "redo", "rm", "gc")
"""Words that follow `mem runs` as the name of a command, not of a study."""


def add_commands(commands: Any) -> None:
    """Add the commands `runs redo`, `runs rm` and `runs gc`."""
    redo = commands.add_parser(
        "runs redo",
        help="remove the outputs of a run and of all runs that depend on it, so that the next workflow repeats them",
    )
    add_run(redo)
    redo.set_defaults(command=_redo)
    remove = commands.add_parser("runs rm", help="remove a run and all runs that depend on it")
    add_run(remove)
    remove.set_defaults(command=_rm)
    garbage = commands.add_parser(
        "runs gc",
        help="remove the runs that no study needs",
        description="Remove the runs that neither a study in config/, nor a study that is delivered with mem, nor one "
        "of the given studies needs. The runs are listed with their sizes first.",
    )
    garbage.add_argument("study", nargs="*", metavar="STUDY", help=f"{STUDY_HELP}; its runs are kept")
    garbage.add_argument("--only", action="store_true", help="keep only the runs of the given studies")
    garbage.set_defaults(command=_gc)
    for command in (redo, remove, garbage):
        command.add_argument("--yes", action="store_true", help="do not ask")


def join_action(arguments: list[str]) -> list[str]:
    """Merge `runs compare` and the like into one argument: argparse cannot distinguish them from `runs STUDY`."""
    if arguments[:1] == ["runs"] and arguments[1:2] and arguments[1] in ACTIONS:
        return [" ".join(arguments[:2]), *arguments[2:]]
    return arguments


def _redo(options: argparse.Namespace) -> int:
    from mem.runs.find import find_run
    from mem.runs.removal import redo

    return redo(find_run(options.run, Path()), Path(), _ask(options.yes))


def _rm(options: argparse.Namespace) -> int:
    from mem.runs.find import find_run
    from mem.runs.removal import remove_run

    return remove_run(find_run(options.run, Path()), Path(), _ask(options.yes))


def _gc(options: argparse.Namespace) -> int:
    from mem.config.study_names import find_study
    from mem.runs.garbage import collect_garbage

    named = [find_study(name) for name in options.study]
    return collect_garbage(named, Path(), _ask(options.yes), only=options.only)


def _ask(yes: bool) -> Callable[[str], bool]:
    """Return a function that asks a question on the terminal. With `yes`, the answer is yes."""
    from mem.errors import UserError

    def ask(question: str) -> bool:
        if yes:
            return True
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            raise UserError(
                "Nothing was removed: there is no terminal to ask you on. Add --yes to remove without asking."
            )
        try:
            return input(f"{question} [y/N] ").strip().lower() in ("y", "yes")
        except EOFError:
            print()
            return False

    return ask

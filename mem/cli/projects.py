"""Commands for project folders: `init`, `run`, `status` and `doctor`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mem.cli.arguments import STUDY_HELP


def add_commands(commands: Any) -> None:
    """Add the commands `init`, `run`, `status` and `doctor`."""
    _add_init(commands)
    _add_run(commands)
    _add_status(commands)
    _add_doctor(commands)


def _add_init(commands: Any) -> None:
    command = commands.add_parser(
        "init",
        help="create a project folder with profiles and a study of your pictures",
        description="Create a project folder: slurm/, local/ and profiles/ for Snakemake, and config/ with a study. "
        "Without pictures, the study is Digits-LT, which needs no download.",
    )
    command.add_argument("directory", type=Path, metavar="DIR", help="folder to create")
    pictures = command.add_mutually_exclusive_group()
    pictures.add_argument(
        "--folder",
        type=Path,
        metavar="PICTURES",
        help="folder of pictures: one folder per class, optionally within train/, val/ and test/",
    )
    pictures.add_argument(
        "--lists",
        type=Path,
        nargs=2,
        metavar=("TRAIN", "TEST"),
        help="list files with one picture per line: its path and its label",
    )
    command.add_argument(
        "--root", type=Path, metavar="DIR", help="with --lists: folder of the paths; default: that of the list TRAIN"
    )
    command.add_argument(
        "--minutes",
        type=_minutes,
        metavar="M",
        help="with pictures: time that the study may take on this machine; default: 12",
    )
    command.set_defaults(command=_init, error=command.error)


def _add_run(commands: Any) -> None:
    command = commands.add_parser(
        "run",
        help="run a study from any folder, with the arguments of snakemake",
        description="Run `snakemake` with the workflow that belongs to mem. All arguments after STUDY are passed to "
        "it, for example: --cores 2, --profile slurm, -n, table2, --config seeds=[0,1]. Without --cores, --jobs or a "
        "profile, the study uses all cores. The exit status is that of snakemake.",
    )
    command.add_argument("study", metavar="STUDY", help=STUDY_HELP)
    command.add_argument(
        "arguments", nargs=argparse.REMAINDER, metavar="...", help="arguments of snakemake; see snakemake --help"
    )
    command.set_defaults(command=_run)


def _add_status(commands: Any) -> None:
    command = commands.add_parser(
        "status", help="show the progress of a study: states, running steps, failures and the time left"
    )
    command.add_argument("study", nargs="?", metavar="STUDY", help=f"{STUDY_HELP}; default: the study started last")
    command.add_argument(
        "--directory", type=Path, default=Path(), metavar="DIR", help="working folder; default: the current folder"
    )
    command.set_defaults(command=_status)


def _add_doctor(commands: Any) -> None:
    # Without prefix characters, all arguments are passed on. The doctor itself has the option --help.
    command = commands.add_parser(
        "doctor",
        help="check a SLURM cluster before the first run, and report what to fix",
        add_help=False,
        prefix_chars="\0",
    )
    command.add_argument("arguments", nargs="*")
    command.set_defaults(command=_doctor)


def _minutes(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text}: expected a positive number of minutes")
    return value


def _init(options: argparse.Namespace) -> int:
    from mem.projects.create import DEFAULT_MINUTES, PictureSource, create_project

    if options.root is not None and options.lists is None:
        options.error("--root requires --lists")
    if options.minutes is not None and options.lists is None and options.folder is None:
        options.error("--minutes requires --folder or --lists")
    source = None
    if options.folder is not None or options.lists is not None:
        lists = None if options.lists is None else (options.lists[0], options.lists[1])
        source = PictureSource(options.folder, lists, options.root)
    print(create_project(options.directory, source, options.minutes or DEFAULT_MINUTES))
    return 0


def _run(options: argparse.Namespace) -> int:
    from mem.projects.run import run_study

    run_study(options.study, options.arguments)


def _status(options: argparse.Namespace) -> int:
    from mem.projects.status import study_status

    print(study_status(options.study, options.directory))
    return 0


def _doctor(options: argparse.Namespace) -> int:
    from mem.projects.run import run_doctor

    run_doctor(options.arguments)

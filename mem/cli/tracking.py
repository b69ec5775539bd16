"""Commands that send logs to MLflow and open the MLflow UI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from mem.cli.arguments import STUDY_HELP, name_of_study


def add_commands(commands: Any) -> None:
    """Add the commands `track sync`, `track follow` and `track ui`."""
    track = commands.add_parser("track", help="send the runs' logs to MLflow, or open the MLflow UI")
    actions = track.add_subparsers(required=True, metavar="ACTION")
    sync = actions.add_parser("sync", help="send all log lines that were not sent yet, then exit")
    sync.set_defaults(command=_sync)
    follow = actions.add_parser("follow", help="send new log lines until the process given by --parent exits")
    follow.add_argument("--parent", type=int, metavar="PID")
    follow.set_defaults(command=_follow)
    ui = actions.add_parser(
        "ui", help="open the MLflow UI, and print the addresses of views that compare a study's runs"
    )
    ui.add_argument("study", nargs="?", metavar="STUDY", help=f"{STUDY_HELP}; default: list all studies")
    ui.add_argument("--host", default="127.0.0.1", help="address on which the UI listens (default: %(default)s)")
    ui.add_argument("--port", type=int, default=5000, help="port of the UI (default: %(default)s)")
    ui.add_argument("--open", action="store_true", help="also open the first view in the browser")
    ui.set_defaults(command=_ui)


def _sync(options: argparse.Namespace) -> int:
    from mem.tracking.commands import sync

    return sync(Path())


def _follow(options: argparse.Namespace) -> int:
    from mem.tracking.commands import follow

    return follow(Path(), options.parent)


def _ui(options: argparse.Namespace) -> int:
    from mem.tracking.ui import UiOptions, open_ui

    study = None if options.study is None else name_of_study(options.study, Path())
    return open_ui(Path(), UiOptions(options.host, options.port, study, options.open))

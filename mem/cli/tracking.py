"""Commands that send logs to MLflow and open the MLflow UI."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add_commands(commands: Any) -> None:
    """Add the commands `track sync`, `track follow` and `track ui`."""
    track = commands.add_parser("track", help="send the runs' logs to MLflow, or open the MLflow UI")
    actions = track.add_subparsers(required=True, metavar="ACTION")
    sync = actions.add_parser("sync", help="send all log lines that were not sent yet, then exit")
    sync.set_defaults(command=_sync)
    follow = actions.add_parser("follow", help="send new log lines until the process given by --parent exits")
    follow.add_argument("--parent", type=int, metavar="PID")
    follow.set_defaults(command=_follow)
    ui = actions.add_parser("ui", help="open the MLflow UI on the embedded database")
    ui.add_argument("--host", default="127.0.0.1")
    ui.add_argument("--port", type=int, default=5000)
    ui.set_defaults(command=_ui)


def _sync(options: argparse.Namespace) -> int:
    from mem.tracking.commands import sync

    return sync(Path())


def _follow(options: argparse.Namespace) -> int:
    from mem.tracking.commands import follow

    return follow(Path(), options.parent)


def _ui(options: argparse.Namespace) -> int:
    from mem.tracking.ui import open_ui

    return open_ui(Path(), options.host, options.port)

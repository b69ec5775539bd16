"""The commands `mem track sync` and `mem track follow`, which run the mirror once or until the workflow ends."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import psutil

from mem.errors import UserError
from mem.tracking import server
from mem.tracking.mirror import Mirror

POLL_SECONDS = 2.0
"""Minimum pause in seconds between two passes over the logs."""
_LONGEST_PAUSE_SECONDS = 6.0
_CORE_SHARE = 0.03
"""Target share of a core for the mirror. A pass that uses more CPU time is followed by a longer pause."""


def sync(root: Path) -> int:
    """Send all log lines that were not sent yet, and return the exit status.

    Raises:
        UserError: Another mirror is running, or the tracking server cannot be used.
    """
    uri = server.tracking_uri(root)
    with server.sole_writer(root, wait_seconds=60) as acquired:
        if not acquired:
            raise UserError(
                "Another mirror is running in this folder and sends everything. See logs/mlflow-mirror.log."
            )
        try:
            mirror = Mirror(root, uri)
            mirror.send_new()
        except server.tracking_errors() as error:
            raise UserError(server.explain(uri, error)) from None
    print(f"Sent {mirror.lines:,} lines to {uri}. `mem track ui` opens the MLflow UI.")
    return 0


def follow(root: Path, parent: int | None) -> int:
    """Send new log lines until the parent process exits or SIGTERM is received, then send the remaining lines.

    Returns:
        The exit status: 1 if the tracking server could not be used in the last pass, otherwise 0.
    """
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the workflow process stops the mirror
    os.nice(5)
    uri = server.tracking_uri(root)
    with server.sole_writer(root, wait_seconds=0) as acquired:
        if not acquired:
            print("Another mirror is running in this folder.", flush=True)
            return 0
        mirror: Mirror | None = None
        reported_error = ""
        while True:
            cpu_start = time.process_time()
            last_pass = bool(signals) or (parent is not None and not psutil.pid_exists(parent))
            try:
                mirror = mirror or Mirror(root, uri)
                mirror.send_new()
                if reported_error:
                    print(f"{time.strftime('%H:%M:%S')} {uri} can be used again.", flush=True)
                reported_error = ""
            except server.tracking_errors() as error:
                mirror = None  # the next mirror asks the server which points arrived
                text = server.explain(uri, error)
                if text != reported_error:
                    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
                reported_error = text
            if last_pass:
                return 1 if reported_error else 0
            deadline = time.monotonic() + _pause_seconds(time.process_time() - cpu_start)
            while time.monotonic() < deadline and not signals:
                time.sleep(0.1)


def _pause_seconds(cpu_seconds: float) -> float:
    """Return the pause after a pass that used the given CPU time."""
    return min(max(POLL_SECONDS, cpu_seconds / _CORE_SHARE), _LONGEST_PAUSE_SECONDS)

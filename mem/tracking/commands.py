"""The commands `mem track sync` and `mem track follow`, which run the mirror once or until the workflow ends."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from mem.errors import UserError, printable
from mem.tracking import limits, server
from mem.tracking.addresses import shown
from mem.tracking.end_request import EndRequest, OutOfTime
from mem.tracking.mirror import Mirror

POLL_SECONDS = 2.0
"""Minimum pause in seconds between two passes over the logs."""
_LONGEST_PAUSE_SECONDS = 6.0
_CORE_SHARE = 0.03
"""Target share of a core for the mirror. A pass that uses more CPU time is followed by a longer pause."""
_RETRY_SECONDS = 30.0
"""Minimum time in seconds before a log that could not be sent is tried again."""
_LAST_TRIES = 3
"""Number of times that a mirror tries to send such a log after it was asked to end."""


def sync(root: Path) -> int:
    """Send all log lines that were not sent yet, and return the exit status.

    Raises:
        UserError: Another process sends the logs, the tracking server cannot be used, or a log cannot be sent.
    """
    uri = server.tracking_uri(root)
    waiting = _SayOnce()
    # A mirror that was asked to end releases the lock before the workflow process would kill it.
    with server.sole_writer(root, limits.KILL_SECONDS, waiting.say) as acquired:
        if not acquired:
            raise UserError(
                f"{waiting.text} It did not end within {limits.KILL_SECONDS:.0f} s. The mirror of a running workflow "
                "sends everything (see logs/mlflow-mirror.log). Otherwise, run `mem track sync` again when the process "
                "has ended."
            )
        try:
            mirror = Mirror(root, uri)
            mirror.send_new()
        except server.tracking_errors() as error:
            raise UserError(server.explain(uri, error)) from None
    print(f"Sent {mirror.lines:,} lines to {shown(uri)}. `mem track ui` opens the MLflow UI.")
    if mirror.failed:
        raise UserError("Some logs were not sent:\n" + "\n".join(mirror.failed.values()))
    return 0


def follow(root: Path, parent: int | None) -> int:
    """Send new log lines until the parent process exits or SIGTERM is received, then send the remaining lines.

    If another process sends the logs, wait until it ends. After the request to end, continue to wait for that process
    and for the tracking server until `limits.LAST_PASS_SECONDS` have passed.

    Returns:
        The exit status: 1 if lines remained that could not be sent, otherwise 0.
    """
    request = EndRequest(parent)
    os.nice(5)
    waiting = _SayOnce()

    def wait_for_lock(holder: str) -> None:
        waiting.say(holder)
        request.received()

    try:
        with server.sole_writer(root, math.inf, wait_for_lock):
            waiting.text = ""
            return _send_until_end(root, server.tracking_uri(root), request)
    except OutOfTime:
        _say(
            f"{waiting.text} The remaining points were not sent within {limits.LAST_PASS_SECONDS:.0f} s. "
            "Run `mem track sync` to send them.".lstrip()
        )
        return 1
    finally:
        request.cancel_time_limit()


def _send_until_end(root: Path, uri: str, request: EndRequest) -> int:
    """Make passes over the logs until the end is requested and a last pass was made. Return the exit status."""
    mirror: Mirror | None = None
    problems: dict[str, str] = {}
    built, tries = 0.0, 0
    while True:
        cpu_start = time.process_time()
        is_last = request.received()
        try:
            if mirror is None or (mirror.failed and (is_last or time.monotonic() > built + _RETRY_SECONDS)):
                mirror, built = Mirror(root, uri), time.monotonic()
            mirror.send_new()
            now, permanent = {str(path): text for path, text in mirror.failed.items()}, False
        except Exception as error:
            mirror = None  # the next mirror asks the server which points arrived
            now, permanent = {**problems, shown(uri): server.explain(uri, error)}, server.is_permanent(error)
        _say_changes(problems, now)
        problems = now
        if is_last:
            tries += 1
            if not problems or permanent or (shown(uri) not in problems and tries >= _LAST_TRIES):
                return 1 if problems else 0
            time.sleep(POLL_SECONDS)
            continue
        deadline = time.monotonic() + _pause_seconds(time.process_time() - cpu_start)
        while time.monotonic() < deadline and not request.received():
            time.sleep(0.2)


def _pause_seconds(cpu_seconds: float) -> float:
    """Return the pause after a pass that used the given CPU time."""
    return min(max(POLL_SECONDS, cpu_seconds / _CORE_SHARE), _LONGEST_PAUSE_SECONDS)


class _SayOnce:
    """Prints that the lock is held, once, and keeps the text."""

    def __init__(self) -> None:
        self.text = ""

    def say(self, holder: str) -> None:
        """Print a message that names the holder of the lock, unless one was printed before."""
        if not self.text:
            self.text = f"{holder} already sends the logs of this folder to MLflow (it holds runs/mlflow.lock)."
            _say(f"{self.text} Waiting until it ends.")


def _say_changes(before: Mapping[str, str], now: Mapping[str, str]) -> None:
    """Print the problems that are new or have changed, and the names of those that are solved."""
    for name, text in now.items():
        if before.get(name) != text:
            _say(text)
    for name in before.keys() - now.keys():
        _say(f"{name} can be used again.")


def _say(text: str) -> None:
    print(printable(f"{time.strftime('%H:%M:%S')} {text}"), file=sys.stderr, flush=True)

"""The command `mem track ui`, which prints the addresses of a study's views and starts MLflow's UI."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mem.errors import UserError, printable
from mem.tracking import server
from mem.tracking.addresses import database_path, is_embedded
from mem.tracking.published_studies import PublishedStudy, published_studies
from mem.tracking.view_state import MACHINE_LEARNING


@dataclass(frozen=True)
class UiOptions:
    """Options of `mem track ui`."""

    host: str = server.DEFAULT_HOST
    port: int = server.DEFAULT_PORT
    study: str | None = None
    """Study whose views are listed; None for the first view of every study."""
    open_browser: bool = False


def open_ui(root: Path, options: UiOptions) -> int:
    """Print the addresses of views. For the embedded database, then replace this process with `mlflow ui`.

    Raises:
        UserError: There is no database, this MLflow version cannot read it, the port is in use, the tracking server
            cannot be used, or the study has no views.
    """
    uri = server.tracking_uri(root)
    if not is_embedded(uri):
        address = server.ui_address(uri)
        print(f"MLflow UI: {address}/#/?{MACHINE_LEARNING}")
        first = _print_views(_studies(uri), address, options.study)
        if options.open_browser:
            _open_when_ready(first)
        return 0
    if (database := database_path(uri)) is not None and not database.exists():
        raise UserError(f"{uri}: there is no database yet. Run a study first, or run `mem track sync`.")
    _check_port(options)
    studies = _studies(uri)
    address = f"http://{f'[{options.host}]' if ':' in options.host else options.host}:{options.port}"
    print(f"MLflow UI at {address}/#/?{MACHINE_LEARNING} (press Ctrl-C to stop it)")
    first = _print_views(studies, address, options.study)
    if options.open_browser:
        _open_when_ready(first)
    sys.stdout.flush()
    _run_ui(uri, options)
    return 0


def _studies(uri: str) -> list[PublishedStudy]:
    try:
        return published_studies(server.client(uri))
    except server.tracking_errors() as error:
        raise UserError(server.explain(uri, error)) from None


def _print_views(studies: Sequence[PublishedStudy], address: str, name: str | None) -> str:
    """Print the addresses of a study's views, or that of the first view of every study. Return the first address."""
    chosen = [study for study in studies if name in (None, study.name)]
    if name is not None and not chosen:
        known = ", ".join(study.name for study in studies)
        raise UserError(
            f"{name}: MLflow has no views of this study. They are created when its report is finished; "
            "`mem track sync` creates missing ones. "
            + (f"Studies with views: {known}." if known else "No study has views yet.")
        )
    for study in chosen:
        print(printable(f"\nStudy {study.name}"))
        views = study.views if name is not None else study.views[:1]
        width = max(len(view.title) for view in views)
        for view in views:
            print(printable(f"  {view.title:<{width}}  {address}/{view.address}"))
    if name is None and chosen:
        print("\n`mem track ui STUDY` lists all views of a study.")
    return f"{address}/{chosen[0].views[0].address}" if chosen else f"{address}/#/?{MACHINE_LEARNING}"


def _check_port(options: UiOptions) -> None:
    with socket.socket(socket.AF_INET6 if ":" in options.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((options.host, options.port))
        except OSError as error:
            raise UserError(
                f"Port {options.port} on {options.host} cannot be used ({error.strerror}). Choose another one with "
                "--port."
            ) from None


def _open_when_ready(address: str) -> None:
    """Start a process that opens an address in the browser as soon as the server responds."""
    command = [sys.executable, "-P", "-m", "mem.tracking.open_browser", address]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)


def _run_ui(uri: str, options: UiOptions) -> None:
    """Replace this process with MLflow's UI."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        options.host,
        "--port",
        str(options.port),
        # One worker is enough for one user. uvicorn kills workers that do not start within five seconds. On a busy
        # machine, several workers would be killed and restarted repeatedly without ever being ready.
        "--workers",
        "1",
    ]
    # Modules in the working folder must not replace installed packages. uvicorn puts its application folder, by default
    # the working folder, at the start of the module path.
    environment = {"PYTHONSAFEPATH": "1", "UVICORN_APP_DIR": sysconfig.get_paths()["purelib"]}
    os.execve(sys.executable, command, {**os.environ, **environment})

"""The command `mem track ui`, which starts MLflow's UI for the embedded database."""

from __future__ import annotations

import os
import socket
import sys
import sysconfig
from pathlib import Path

from mem.errors import UserError
from mem.tracking.addresses import database_path, is_embedded, shown
from mem.tracking.server import client, explain, tracking_errors, tracking_uri


def open_ui(root: Path, host: str, port: int) -> int:
    """Replace this process with `mlflow ui`.

    Raises:
        UserError: There is no database, this MLflow version cannot read it, the port is in use, or runs are tracked on
            a server that provides the UI.
    """
    uri = tracking_uri(root)
    if not is_embedded(uri):
        raise UserError(f"Runs are tracked on the server {shown(uri)}. Open this address in a browser.")
    if (database := database_path(uri)) is not None and not database.exists():
        raise UserError(f"{uri}: there is no database yet. Run a study first, or run `mem track sync`.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"Port {port} on {host} cannot be used ({error.strerror}). Choose another one with --port."
            ) from None
    try:
        client(uri).search_experiments(max_results=1)
    except tracking_errors() as error:
        raise UserError(explain(uri, error)) from None
    print(f"MLflow UI at http://{host}:{port} (press Ctrl-C to stop it)", flush=True)
    command = [
        sys.executable,
        "-P",
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        host,
        "--port",
        str(port),
        # One worker is enough for one user. uvicorn kills workers that do not start within five seconds. On a busy
        # machine, several workers would be killed and restarted repeatedly without ever being ready.
        "--workers",
        "1",
    ]
    # Modules in the working folder must not replace installed packages. uvicorn puts its application folder, by default
    # the working folder, at the start of the module path.
    environment = {"PYTHONSAFEPATH": "1", "UVICORN_APP_DIR": sysconfig.get_paths()["purelib"]}
    os.execve(sys.executable, command, {**os.environ, **environment})

"""Opening the MLflow UI on the embedded database."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from mem.errors import UserError
from mem.tracking.server import client, explain, is_embedded, tracking_uri, unreachable


def open_ui(root: Path, host: str, port: int) -> int:
    """Replace this process by `mlflow ui`.

    Raises:
        UserError: There is no database yet or one that this MLflow cannot read, the port is in use, or runs go to a
            server that has a UI of its own.
    """
    uri = tracking_uri(root)
    if not is_embedded(uri):
        raise UserError(f"Runs are tracked at {uri}; open that address in a browser.")
    if uri.startswith("sqlite:///") and not Path(uri.removeprefix("sqlite:///")).exists():
        raise UserError(f"{uri}: no database yet. Run a study first, or `mem track sync`.")
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(
                f"Port {port} on {host} cannot be used ({error.strerror}). Choose another: --port"
            ) from None
    try:
        client(uri).search_experiments(max_results=1)
    except unreachable() as error:
        raise UserError(explain(uri, error)) from None
    print(f"MLflow UI at http://{host}:{port} (Ctrl-C ends it)", flush=True)
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "ui",
        "--backend-store-uri",
        uri,
        "--host",
        host,
        "--port",
        str(port),
        # One reader needs one worker, and several are killed and started for ever where a busy machine is slow to start
        # them: uvicorn gives each five seconds.
        "--workers",
        "1",
    ]
    os.execv(sys.executable, command)

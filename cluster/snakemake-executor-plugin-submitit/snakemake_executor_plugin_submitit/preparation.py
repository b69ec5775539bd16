"""The steps of rank 0 before a rule's command, for jobs without an inner Snakemake."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable

from snakemake_executor_plugin_submitit.rendezvous import wait_for
from snakemake_executor_plugin_submitit.work import Preparation


class PreparationError(Exception):
    """An output is write-protected, or an input is missing."""


def prepare(preparation: Preparation, cwd: str, stop_requested: Callable[[], bool]) -> None:
    """Wait for inputs, remove old outputs and create directories, as Snakemake does before a rule's command runs.

    Return early, without any change to the outputs, if `stop_requested` returns true during the wait.

    Raises:
        PreparationError: An output is write-protected, or an input is missing.
    """
    inputs = (os.path.join(cwd, path) for path in preparation.inputs)
    missing = wait_for(inputs, preparation.latency_wait, stop_requested)
    if stop_requested():
        return
    if missing:
        raise PreparationError(
            f"inputs did not appear on {socket.gethostname()} within {preparation.latency_wait:g} s (--latency-wait): "
            + ", ".join(missing[:5])
        )
    outputs = [(os.path.join(cwd, path), directory) for path, directory in preparation.outputs]
    protected = [path for path, _ in outputs if os.path.exists(path) and not os.access(path, os.W_OK)]
    if protected:
        raise PreparationError(f"these outputs exist and are write-protected: {', '.join(protected)}")
    for path, directory in [*outputs, *((os.path.join(cwd, log), False) for log in preparation.logs)]:
        _remove(path, directory)
        os.makedirs(os.path.dirname(path), exist_ok=True)


def _remove(path: str, directory: bool) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        if directory:
            shutil.rmtree(path)
        elif not os.listdir(path):
            os.rmdir(path)
    elif path != os.devnull and os.path.lexists(path):
        os.remove(path)

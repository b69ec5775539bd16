"""Send artifacts and models. A log may come from another person, so only files of the working folder are sent."""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from mem.errors import printable
from mem.tracking.registry import register


def send_artifact(mlflow_client: Any, run_id: str, root: Path, run_folder: Path, event: Mapping[str, Any]) -> None:
    """Send the file or folder of an "artifact" event. Print a message if it cannot be sent.

    Args:
        mlflow_client: MLflow's client.
        run_id: Id of the MLflow run.
        root: The working folder.
        run_folder: Folder of the log.
        event: The event.
    """
    path = root / event["path"]
    if problem := refusal(root, run_folder, path, event["to"]):
        say(f"{path}: {problem}. It is not sent to MLflow.")
    elif path.is_dir():
        mlflow_client.log_artifacts(run_id, str(path), event["to"])
    else:
        mlflow_client.log_artifact(run_id, str(path), event["to"])


def send_model(mlflow_client: Any, run_id: str, root: Path, run_folder: Path, event: Mapping[str, Any]) -> None:
    """Register the model of a "model" event. Print a message if it cannot be registered. See `send_artifact`."""
    path = root / event["path"]
    problem = refusal(root, run_folder, path)
    if not problem and not (path / "MLmodel").is_file():
        problem = "this folder contains no MLflow model"
    if problem:
        say(f"{path}: {problem}. Nothing was registered; run `mem register` again.")
        return
    register(mlflow_client, run_id, path, event["name"], event["alias"], event["key"], event["tags"])


def say(message: str) -> None:
    """Print a message on standard error."""
    print(printable(message), file=sys.stderr, flush=True)


def input_folder(root: Path, folder: str) -> Path:
    """Return the folder of an input run.

    Raises:
        ValueError: The folder is not in the working folder.
    """
    path = root / folder
    here = Path(os.path.abspath(root))
    if not (Path(os.path.abspath(path)).is_relative_to(here) or path.resolve().is_relative_to(here.resolve())):
        raise ValueError(f"the input {folder} is not in the working folder")
    return path


def refusal(root: Path, run_folder: Path, path: Path, to: str = "") -> str | None:
    """Return why a file or folder cannot be sent, or None if it can.

    Links are resolved. `runs/` and `results/` may be links to another disk, and so may the run folder.

    Args:
        root: The working folder.
        run_folder: Folder of the log that names the artifact.
        path: The file or folder.
        to: Destination folder among the MLflow artifacts.
    """
    if not path.exists():
        return "no such file"
    if PurePosixPath(to).is_absolute() or ".." in PurePosixPath(to).parts or "\0" in to:
        return f"its destination {to!r} is not a folder among the artifacts"
    allowed = [folder.resolve() for folder in (root, root / "runs", root / "results", run_folder)]
    for part in _files(path):
        if not part.exists():
            return f"{part.name} is a link to a missing file"
        target = part.resolve()
        if not any(target.is_relative_to(folder) for folder in allowed):
            return f"{part.name} leads out of the working folder, to {target}"
        if not stat.S_ISREG(mode := part.stat().st_mode) and not stat.S_ISDIR(mode):
            return f"{part.name} is neither a file nor a folder"
    return None


def _files(path: Path) -> Iterator[Path]:
    """Yield a path and everything below it. Links to folders are not followed."""
    yield path
    for folder, folders, files in os.walk(path):
        yield from (Path(folder, name) for name in (*folders, *files))

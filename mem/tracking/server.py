"""Wrapper around the MLflow client for the mirror. Decision 0018 lists the modules that import mlflow."""

from __future__ import annotations

import contextlib
import http
import json
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import mlflow.exceptions
import requests
import requests.exceptions
import sqlalchemy.exc
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.tracking import MlflowClient

from mem import files
from mem.tracking.addresses import database_path, database_uri, is_embedded, shown, without_secrets
from mem.tracking.relocation import artifact_location, relocate

_PARAMS_PER_REQUEST = 100
"""Maximum number of params that MLflow accepts in one request."""

_LOCK_POLL_SECONDS = 0.5
_VERSION_TIMEOUT_SECONDS = 10.0
DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 5000
"""Default address of `mem track ui`."""
_NOT_ABOUT_THE_CONTENT = {
    http.HTTPStatus.UNAUTHORIZED,
    http.HTTPStatus.FORBIDDEN,
    http.HTTPStatus.REQUEST_TIMEOUT,
    http.HTTPStatus.TOO_MANY_REQUESTS,
}
"""Status codes from 400 to 499 that do not depend on the content of a request."""

Point = tuple[str, float, int, int]
"""Name, value, time in milliseconds, and step of a metric."""


class DeletedExperiment(Exception):
    """The user deleted the experiment of a dataset. Deleted experiments are not restored."""


def tracking_uri(root: Path) -> str:
    """Return `MLFLOW_TRACKING_URI`, or the address of the embedded database in `root`/runs.

    Raises:
        UserError: The path of the database is not valid UTF-8.
    """
    return os.environ.get("MLFLOW_TRACKING_URI") or database_uri((root / "runs" / "mlflow.db").resolve())


def client(uri: str) -> MlflowClient:
    """Return a client. Create the embedded database if it does not exist, and update it if it was copied or moved."""
    database = database_path(uri)
    if database is not None:
        database.parent.mkdir(parents=True, exist_ok=True)
        if not os.environ.get("MLFLOW_TRACKING_URI") and (message := relocate(database)):
            print(message, file=sys.stderr, flush=True)
    return MlflowClient(uri)


def experiment(mlflow_client: MlflowClient, name: str, root: Path, uri: str) -> str:
    """Return the id of a dataset's experiment. Create it if it does not exist.

    Raises:
        DeletedExperiment: The user deleted the experiment.
    """
    found = mlflow_client.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            raise DeletedExperiment(
                f"The MLflow experiment {name} was deleted. New runs of this dataset are not sent to MLflow. To send "
                f"them, restore the experiment: MLFLOW_TRACKING_URI={shown(uri)} mlflow experiments restore "
                f"--experiment-id {found.experiment_id}"
            )
        return found.experiment_id
    location = artifact_location(root / "runs", name) if is_embedded(uri) else None
    # With this tag, MLflow's UI shows its pages for model training. Without it, the UI may show those for LLMs.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return mlflow_client.create_experiment(name, artifact_location=location, tags=tags)


def all_runs(mlflow_client: MlflowClient) -> Iterator[Any]:
    """Yield every run of every experiment, including deleted runs and the runs of deleted experiments."""
    ids: list[str] = []
    token: str | None = None
    while True:
        experiments = mlflow_client.search_experiments(view_type=ViewType.ALL, page_token=token)
        ids += [found.experiment_id for found in experiments]
        token = experiments.token
        if not token:
            break
    while True:
        page = mlflow_client.search_runs(ids, run_view_type=ViewType.ALL, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def find_runs(mlflow_client: MlflowClient, experiment_id: str, query: str = "", *, deleted: bool = False) -> list[Any]:
    """Return the runs of an experiment that match a filter; deleted runs only if `deleted` is true."""
    found: list[Any] = []
    token: str | None = None
    view = ViewType.ALL if deleted else ViewType.ACTIVE_ONLY
    while True:
        page = mlflow_client.search_runs([experiment_id], query, run_view_type=view, max_results=1000, page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def is_deleted(mlflow_client: MlflowClient, run_id: str) -> bool:
    """Return whether a run was deleted. A run that the server no longer knows counts as deleted."""
    try:
        return mlflow_client.get_run(run_id).info.lifecycle_stage == "deleted"
    except mlflow.exceptions.MlflowException as error:
        if error.get_http_status_code() == http.HTTPStatus.NOT_FOUND:
            return True
        raise


def points(mlflow_client: MlflowClient, run_id: str, names: set[str]) -> set[tuple[str, int, int]]:
    """Return the name, time in milliseconds and step of each point of the given metrics of a run."""
    return {
        (name, point.timestamp, point.step)
        for name in sorted(names)
        for point in mlflow_client.get_metric_history(run_id, name)
    }


def send(
    mlflow_client: MlflowClient,
    run_id: str,
    metrics: Sequence[Point],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Send params and metrics, followed by the tags, which record how much of the log was sent."""
    entries = [Param(name, storable(value)) for name, value in params.items()]
    for start in range(0, len(entries), _PARAMS_PER_REQUEST):
        mlflow_client.log_batch(run_id, params=entries[start : start + _PARAMS_PER_REQUEST])
    if metrics:
        mlflow_client.log_batch(run_id, metrics=[Metric(*point) for point in metrics])
    mlflow_client.log_batch(run_id, tags=[RunTag(name, storable(value)) for name, value in tags.items()])


def storable(text: str) -> str:
    """Replace what databases cannot store: bytes of file names that are not valid UTF-8, and null characters."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def log_dataset(
    mlflow_client: MlflowClient, run_id: str, name: str, key: str, folder: Path, manifest: Mapping[str, Any]
) -> None:
    """Log a dataset as the input of an MLflow run. Repeated calls have no further effect.

    Args:
        mlflow_client: MLflow's client.
        run_id: Id of the MLflow run.
        name: Name of the dataset.
        key: Key of the convert run.
        folder: Folder of the convert run.
        manifest: Content of `dataset.json`.
    """
    profile = {
        "classes": len(manifest["classes"]),
        "images": {split: about["images"] for split, about in manifest["splits"].items()},
        "groups": manifest["groups"],
        "imbalance": manifest["imbalance"],
    }
    dataset = Dataset(name, key, "local", json.dumps({"uri": str(folder)}), profile=json.dumps(profile))
    mlflow_client.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def ui_address(uri: str) -> str:
    """Return the address of the UI: that of the tracking server, or the default address of `mem track ui`."""
    if is_embedded(uri):
        return f"http://{DEFAULT_HOST}:{DEFAULT_PORT}"
    parts = urlsplit(uri)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path.rstrip("/"), "", ""))


def ui_version(uri: str) -> str | None:
    """Return the MLflow version whose UI shows the runs: the installed one, or that of the tracking server."""
    if is_embedded(uri):
        return mlflow.__version__
    try:
        answer = requests.get(f"{uri.rstrip('/')}/version", timeout=_VERSION_TIMEOUT_SECONDS)
    except requests.exceptions.RequestException:
        return None
    return answer.text.strip() if answer.ok else None


def tracking_errors() -> tuple[type[Exception], ...]:
    """Return the exception types that are raised if the server is unavailable or rejects a request."""
    return (
        mlflow.exceptions.MlflowException,
        requests.exceptions.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
    )


def is_rejection(error: Exception) -> bool:
    """Return whether the server is available and rejected one request because of its content."""
    if not isinstance(error, mlflow.exceptions.MlflowException):
        return False
    status = error.get_http_status_code()
    return 400 <= status < 500 and status not in _NOT_ABOUT_THE_CONTENT


def is_permanent(error: Exception) -> bool:
    """Return whether the server cannot be used until the user changes it, so that it is useless to try again."""
    return _is_about_schema(str(error))


def explain(uri: str, error: Exception) -> str:
    """Return an error message that describes the problem with the tracking server and how to solve it."""
    is_file = is_embedded(uri)
    text, uri = without_secrets(" ".join(str(error).split())), shown(uri)
    nothing_lost = "Nothing is lost: the logs of the runs contain everything, and `mem track sync` sends it later."
    if _is_about_schema(text):
        return (
            f"The database {uri} has the schema of another MLflow version. Use the MLflow version that created it, or "
            f"back up the database and then upgrade it (`mlflow db upgrade {uri}`). {nothing_lost}"
        )
    if not is_file and ("error code 404" in text or "Not Found" in text):
        return (
            f"The tracking server {uri} does not support a request. It is older than the installed MLflow "
            f"({mlflow.__version__}), or it is not an MLflow server. Upgrade it, or set MLFLOW_TRACKING_URI to another "
            f"server. {nothing_lost}"
        )
    if not isinstance(error, tracking_errors()):
        text = f"{type(error).__name__}: {text}"
    return f"The tracking server {uri} cannot be used: {text[:300]}. Training is not affected. {nothing_lost}"


def _is_about_schema(text: str) -> bool:
    return "out-of-date database schema" in text or "Can't locate revision" in text


@contextlib.contextmanager
def sole_writer(
    root: Path, wait_seconds: float, while_waiting: Callable[[str], None] = lambda holder: None
) -> Iterator[bool]:
    """Acquire the mirror lock for `root`. Yield whether the lock was acquired.

    Args:
        root: The working folder.
        wait_seconds: Time to wait for the lock.
        while_waiting: Function that is called repeatedly during this time, with the name of the process that holds
            the lock.
    """
    (root / "runs").mkdir(parents=True, exist_ok=True)
    with open(root / "runs" / "mlflow.lock", "a+", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_seconds
        while files.try_lock(file) is False:
            if time.monotonic() >= deadline:
                yield False
                return
            file.seek(0)
            while_waiting(file.read().strip() or "Another process")
            time.sleep(min(_LOCK_POLL_SECONDS, wait_seconds))
        with contextlib.suppress(OSError):  # the text is only for messages, and the disk may be full
            file.truncate(0)
            file.write(f"Process {os.getpid()} on {socket.gethostname()}")
            file.flush()
        yield True

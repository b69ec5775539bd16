"""MLflow's side of the mirror; with `models.py` the only file that imports mlflow."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")

import mlflow
import mlflow.exceptions
import requests.exceptions
import sqlalchemy.exc
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag, ViewType
from mlflow.tracking import MlflowClient

_ITEMS = 100
"""Params and tags that one request takes."""

Point = tuple[str, float, int, int]
"""Name, value, time in milliseconds, step."""


def tracking_uri(root: Path) -> str:
    """`MLFLOW_TRACKING_URI`, or the database embedded in `root`/runs."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(root / 'runs' / 'mlflow.db').resolve()}"


def is_embedded(uri: str) -> bool:
    """Whether the store is a file of this machine."""
    return urlsplit(uri).scheme in ("sqlite", "", "file")


def client(uri: str) -> MlflowClient:
    """A client; an embedded database is made if it is not there."""
    if uri.startswith("sqlite:///"):
        Path(uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    return MlflowClient(uri)


def experiment(own: MlflowClient, name: str, root: Path, uri: str) -> str:
    """Id of the experiment of a data set, made if it is not there."""
    found = own.get_experiment_by_name(name)
    if found is not None:
        if found.lifecycle_stage == "deleted":
            own.restore_experiment(found.experiment_id)
        return found.experiment_id
    location = (root / "runs" / "mlflow-artifacts" / name).resolve().as_uri() if is_embedded(uri) else None
    # The UI shows the views for training where it would else guess at those for language models.
    tags = {"mlflow.experimentKind": "custom_model_development"}
    return own.create_experiment(name, artifact_location=location, tags=tags)


def all_runs(own: MlflowClient) -> Iterator[Any]:
    """Every run of every experiment, deleted ones too."""
    ids = [e.experiment_id for e in own.search_experiments()]
    token: str | None = None
    while True:
        page = own.search_runs(ids, run_view_type=ViewType.ALL, max_results=1000, page_token=token)
        yield from page
        token = page.token
        if not token:
            return


def points(own: MlflowClient, run_id: str, names: set[str]) -> set[tuple[str, int, int]]:
    """Name, time in milliseconds and step of the points that a run has of some metrics."""
    return {
        (name, point.timestamp, point.step) for name in sorted(names) for point in own.get_metric_history(run_id, name)
    }


def send(
    own: MlflowClient,
    run_id: str,
    metrics: Sequence[Point],
    params: Mapping[str, str],
    tags: Mapping[str, str],
) -> None:
    """Send metrics and params, and last the tags, which say how far the log was sent."""
    entries = [Param(name, value) for name, value in params.items()]
    for start in range(0, len(entries), _ITEMS):
        own.log_batch(run_id, params=entries[start : start + _ITEMS])
    if metrics:
        own.log_batch(run_id, metrics=[Metric(*point) for point in metrics])
    own.log_batch(run_id, tags=[RunTag(name, value) for name, value in tags.items()])


def log_dataset(own: MlflowClient, run_id: str, name: str, key: str, folder: Path, manifest: Mapping[str, Any]) -> None:
    """Note the data set that a run sees; done twice it changes nothing.

    Args:
        own: The client.
        run_id: MLflow's run.
        name: Of the data set.
        key: Of its conversion.
        folder: Of its conversion.
        manifest: Its `dataset.json`.
    """
    profile = {
        "classes": len(manifest["classes"]),
        "images": {split: about["images"] for split, about in manifest["splits"].items()},
        "groups": manifest["groups"],
        "imbalance": manifest["imbalance"],
    }
    dataset = Dataset(name, key, "local", json.dumps({"uri": str(folder)}), profile=json.dumps(profile))
    own.log_inputs(run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])])


def unreachable() -> tuple[type[Exception], ...]:
    """What is raised where the server does not answer or refuses."""
    return (
        mlflow.exceptions.MlflowException,
        requests.exceptions.RequestException,
        sqlalchemy.exc.SQLAlchemyError,
    )


def explain(uri: str, error: Exception) -> str:
    """A message for the user."""
    text = " ".join(str(error).split())
    if "out-of-date database schema" in text or "Can't locate revision" in text:
        return (
            f"The database {uri} has the schema of another MLflow version. Upgrade it (`mlflow db upgrade {uri}`, "
            "after a copy), or use the MLflow that made it. The runs' logs keep everything; `mem track sync` sends it "
            "afterwards."
        )
    if not is_embedded(uri) and ("error code 404" in text or "Not Found" in text):
        return (
            f"The tracking server {uri} does not know a request that is made of it: it is older than the MLflow here "
            f"({mlflow.__version__}), or no MLflow server. Upgrade it, or give another (MLFLOW_TRACKING_URI). "
            "The runs' logs keep everything; `mem track sync` sends it afterwards."
        )
    return (
        f"The tracking server {uri} cannot be used: {text[:300]}. Training does not need it: the runs' logs keep "
        "everything, and `mem track sync` sends it afterwards."
    )


@contextlib.contextmanager
def sole_writer(root: Path, wait_seconds: float) -> Iterator[bool]:
    """Hold the lock of the only mirror under `root`; gives whether it was had."""
    (root / "runs").mkdir(parents=True, exist_ok=True)
    with open(root / "runs" / "mlflow.lock", "w", encoding="utf-8") as file:
        deadline = time.monotonic() + wait_seconds
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    yield False
                    return
                time.sleep(0.2)
        yield True

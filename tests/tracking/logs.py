"""Functions that write logs as the stages do, and that read the corresponding MLflow runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow.tracking import MlflowClient

from mem.tracking import server
from mem.tracking.log import JsonLines
from mem.tracking.mirror import Mirror

MACHINE = {"host": "here", "slurm": {"job_id": "17", "restart_count": "2"}}
INPUTS = {
    "pretrain": {"images": "runs/set/data/convert-000000000001"},
    "finetune": {"encoder": "runs/set/vit/pretrain-000000000002"},
    "features": {"classifier": "runs/set/vit/finetune-000000000003"},
    "train_head": {"features": "runs/set/vit/features-000000000004"},
    "evaluate": {
        "head": "runs/set/vit/train_head-000000000005",
        "features": "runs/set/vit/features-000000000004",
    },
}
FOLDERS = {
    "convert": "data/convert-000000000001",
    **{
        stage: f"vit/{stage}-{number:012d}"
        for number, stage in enumerate(("pretrain", "finetune", "features", "train_head", "evaluate", "report"), 2)
    },
}
OPEN_LOGS: list[JsonLines] = []
"""Logs that the test's teardown must close."""


def log_path(root: Path, stage: str) -> Path:
    return root / "runs" / "set" / FOLDERS[stage] / "log.jsonl"


def open_log(root: Path, stage: str) -> JsonLines:
    """Open the log of a stage and write its start event."""
    log = JsonLines(log_path(root, stage))
    OPEN_LOGS.append(log)
    labels = {"order": 0, "seed": 3}
    log.event(
        "start",
        stage=stage,
        key=FOLDERS[stage][-12:],
        dataset="set",
        backbone="vit",
        labels=labels | {"variant": "mem", "method": "mem"} if "head" in stage else labels,
        seed=3,
        settings={"head": {"xi": 20.0, "training": {"lr": 0.1}, "taus": [0, 1]}},
        inputs=INPUTS.get(stage, {}),
        git={"commit": "abc", "dirty": False},
        machine=MACHINE,
        versions={},
    )
    return log


def client(root: Path) -> MlflowClient:
    return MlflowClient(server.tracking_uri(root))


def mlflow_run(root: Path, stage: str, **filters: Any) -> Any:
    """Return the only MLflow run of a stage."""
    mlflow_client = client(root)
    ids = [e.experiment_id for e in mlflow_client.search_experiments()]
    found = [run for run in mlflow_client.search_runs(ids, **filters) if run.data.tags["stage"] == stage]
    assert len(found) == 1, [run.data.tags for run in found]
    return found[0]


def all_runs(root: Path) -> list[Any]:
    """Return every MLflow run of the dataset."""
    mlflow_client = client(root)
    experiment = mlflow_client.get_experiment_by_name("set")
    assert experiment is not None
    return list(mlflow_client.search_runs([experiment.experiment_id]))


def steps(root: Path, stage: str, metric: str = "train/loss") -> list[int]:
    """Return the steps of a metric in MLflow."""
    return [point.step for point in client(root).get_metric_history(mlflow_run(root, stage).info.run_id, metric)]


def send(root: Path) -> Mirror:
    """Send all new lines with a newly started mirror."""
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert mirror.failed == {}
    return mirror

"""Logs that are sent to the MLflow run of another log: logs of ranks other than 0, and logs of evaluations."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mem.tracking.log import JsonLines
from mem.tracking.mirror import Mirror
from mem.tracking.server import tracking_uri
from tests.tracking.logs import all_runs, client, log_path, mlflow_run, open_log, send, steps

CPU = "system/node_1/cpu_utilization_percentage"


def rank_log(root: Path, log: JsonLines, rank: int = 1) -> JsonLines:
    """Open the log of another rank next to the log of rank 0."""
    other = JsonLines(log_path(root, "pretrain").with_name(f"rank-{rank}-{log.id[:8]}.jsonl"))
    other.event("beside", log=log.id)
    return other


def values(history: Iterable[Any]) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in history]


def test_metrics_of_other_ranks_are_in_the_run_of_their_stage(root):
    first = open_log(root, "pretrain")
    with rank_log(root, first) as log:
        for step in range(3):
            log.scalars({CPU: 10.0 * step}, step)
        mirror = send(root)
        log.scalars({CPU: 30.0}, 3)
        mirror.send_new()
        send(root)
    history = client(root).get_metric_history(mlflow_run(root, "pretrain").info.run_id, CPU)
    assert values(history) == [(0, 0.0), (1, 10.0), (2, 20.0), (3, 30.0)]


def test_a_rank_log_waits_until_its_stage_has_an_mlflow_run(root):
    with JsonLines(log_path(root, "pretrain").with_name("rank-1-0.jsonl")) as log:
        log.event("beside", log="of no run yet")
        log.scalars({CPU: 1.0}, 0)
        assert send(root).lines == 0


def test_rank_logs_of_a_recomputed_run_stay_with_the_earlier_mlflow_run(root):
    first = open_log(root, "pretrain")
    with rank_log(root, first) as log:
        log.scalars({CPU: 1.0}, 0)
    log_path(root, "pretrain").rename(log_path(root, "pretrain").with_name("log-1.jsonl"))
    second = open_log(root, "pretrain")
    with rank_log(root, second) as log:
        log.scalars({CPU: 2.0}, 0)
    send(root)
    send(root)
    histories = [values(client(root).get_metric_history(run.info.run_id, CPU)) for run in all_runs(root)]
    assert sorted(histories) == [[(0, 1.0)], [(0, 2.0)]]


def test_logs_that_belong_to_a_deleted_run_are_skipped(root):
    open_log(root, "features")
    head = open_log(root, "train_head")
    send(root)
    client(root).delete_run(mlflow_run(root, "train_head").info.run_id)
    open_log(root, "evaluate").scalars({"test/acc1": 50.0}, 0)
    with rank_log(root, head) as log:
        log.scalars({CPU: 1.0}, 0)
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    send(root)
    assert steps(root, "pretrain") == [1]


def test_scores_of_a_recomputed_evaluation_are_the_latest_of_the_run(root):
    open_log(root, "features")
    open_log(root, "train_head")
    for score in (50.0, 60.0):
        log = open_log(root, "evaluate")
        log.scalars({"test/acc1": score}, 0)
        log.close()
        send(root)
        send(root)
        if score == 50.0:
            log_path(root, "evaluate").unlink()
    run = mlflow_run(root, "train_head")
    assert run.data.metrics["test/acc1"] == 60.0
    assert len(client(root).get_metric_history(run.info.run_id, "test/acc1")) == 2


def test_a_log_that_is_renamed_while_it_is_read_is_found_again(root, monkeypatch):
    path = log_path(root, "pretrain")
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    mirror = Mirror(root, tracking_uri(root))
    renamed = path.with_name("log-1.jsonl")
    original = mirror._find_state

    def rename_meanwhile(log, inode):
        found = original(log, inode)
        if log == path and not renamed.exists():
            path.rename(renamed)
        return found

    monkeypatch.setattr(mirror, "_find_state", rename_meanwhile)
    mirror.send_new()
    mirror.send_new()
    assert steps(root, "pretrain") == [1]

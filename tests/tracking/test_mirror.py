"""The mirror sends every point of a log to MLflow exactly once."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from mlflow.entities import ViewType

from mem.tracking import server
from mem.tracking.commands import _pause_seconds
from mem.tracking.mirror import Mirror
from tests.tracking.logs import FOLDERS, all_runs, client, log_path, mlflow_run, open_log, send, steps


def test_backbone_runs_are_nested_and_scores_are_in_the_run_of_their_head(root):
    for stage in FOLDERS:
        if stage == "report":
            continue
        log = open_log(root, stage)
        if stage == "evaluate":
            log.scalars({"test/all": 91.5, "val/all": 92.0}, step=0)
        log.event("end", status="finished")
        log.close()
    send(root)
    runs = {stage: mlflow_run(root, stage) for stage in FOLDERS if stage not in ("evaluate", "report")}
    parent = {stage: run.data.tags.get("mlflow.parentRunId") for stage, run in runs.items()}
    assert parent == {
        "convert": None,
        "pretrain": None,
        "finetune": runs["pretrain"].info.run_id,
        "features": runs["finetune"].info.run_id,
        "train_head": None,
    }
    head = runs["train_head"]
    assert head.data.metrics == {"test/all": 91.5, "val/all": 92.0}
    assert head.data.params["head.xi"] == "20.0"
    assert head.data.params["head.training.lr"] == "0.1"
    assert head.info.run_name == "mem (tau chosen on val) · vit · seed 3"
    expected = {
        "stage": "train_head", "method": "mem", "dataset": "set", "backbone": "vit", "seed": "3", "git_sha": "abc",
        "config_digest": FOLDERS["train_head"][-12:], "slurm_job_id": "17", "restarts": "2",
    }  # fmt: skip
    assert expected.items() <= head.data.tags.items()
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_points_arrive_with_their_step_and_time(root):
    log = open_log(root, "pretrain")
    before = round(1000 * time.time()) - 1
    for step in (10, 20):
        log.scalars({"train/loss": step / 10}, step)
    send(root)
    history = client(root).get_metric_history(mlflow_run(root, "pretrain").info.run_id, "train/loss")
    assert [(p.step, p.value) for p in history] == [(10, 1.0), (20, 2.0)]
    assert all(before <= p.timestamp <= round(1000 * time.time()) for p in history)
    assert mlflow_run(root, "pretrain").info.status == "RUNNING"


def test_a_running_mirror_sends_new_points_and_a_new_mirror_sends_nothing_twice(root):
    log = open_log(root, "pretrain")
    mirror = Mirror(root, server.tracking_uri(root))
    for step in range(1, 6):
        log.scalars({"train/loss": 1.0}, step)
        mirror.send_new()
    log.scalars({"train/loss": 1.0}, 6)
    send(root)
    assert send(root).lines == 0
    assert steps(root, "pretrain") == [1, 2, 3, 4, 5, 6]


def test_a_mirror_killed_after_sending_and_before_setting_the_tag_duplicates_nothing(root, monkeypatch):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    log.scalars({"train/loss": 2.0}, 2)
    log.scalars({"train/loss": 3.0}, 3)
    original = server.send

    def send_one_and_fail(mlflow_client, run_id, metrics, params, tags):
        original(mlflow_client, run_id, metrics[:1], params, {})
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "send", send_one_and_fail)
    with pytest.raises(KeyboardInterrupt):
        send(root)
    monkeypatch.setattr(server, "send", original)
    assert steps(root, "pretrain") == [1, 2]
    send(root)
    assert steps(root, "pretrain") == [1, 2, 3]


def test_an_incomplete_line_is_sent_when_it_is_complete(root):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    with open(log_path(root, "pretrain"), "ab") as file:
        file.write(b'{"time": %.3f, "event": "metrics", "step": 2, "metr' % time.time())
    mirror = send(root)
    assert steps(root, "pretrain") == [1]
    with open(log_path(root, "pretrain"), "ab") as file:
        file.write(b'ics": {"train/loss": 2.0}}\n')
    mirror.send_new()
    assert steps(root, "pretrain") == [1, 2]


def test_a_long_log_is_sent_in_several_requests(root):
    log = open_log(root, "pretrain")
    for step in range(1, 701):
        log.scalars({"a": step, "b": -step, "c": 0.5}, step)
    send(root)
    assert steps(root, "pretrain", "b") == list(range(1, 701))


def test_a_resumed_run_is_running_again_and_stays_one_mlflow_run(root):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    log.event("end", status="stopped", reason="SIGTERM")
    log.close()
    mirror = send(root)
    assert mlflow_run(root, "pretrain").info.status == "KILLED"
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0, "train/lr": 1.0}, 1)
    log.scalars({"train/loss": 2.0}, 2)
    mirror.send_new()
    assert mlflow_run(root, "pretrain").info.status == "RUNNING"
    log.event("end", status="finished")
    mirror.send_new()
    assert mlflow_run(root, "pretrain").info.status == "FINISHED"
    assert steps(root, "pretrain") == [1, 2]


def test_a_recomputed_run_is_another_mlflow_run(root):
    log = open_log(root, "pretrain")
    for step in range(1, 9):
        log.scalars({"train/loss": 1.0}, step)
    log.close()
    mirror = send(root)
    log_path(root, "pretrain").rename(log_path(root, "pretrain").with_name("log-1.jsonl"))
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 5.0}, 1)
    mirror.send_new()
    send(root)
    histories = [client(root).get_metric_history(run.info.run_id, "train/loss") for run in all_runs(root)]
    assert sorted([point.step for point in history] for history in histories) == [[1], list(range(1, 9))]


def test_a_recomputed_report_stays_one_mlflow_run(root):
    path = log_path(root, "report")
    (root / "table.md").write_text("| a |")
    mirror = Mirror(root, server.tracking_uri(root))
    for number in (1, 2):
        log = open_log(root, "report")
        log.event("artifact", path="table.md", to="report")
        log.event("end", status="finished")
        log.close()
        mirror.send_new()
        path.rename(path.with_name(f"log-{number}.jsonl"))
    send(root)
    assert mlflow_run(root, "report").info.status == "FINISHED"


def test_a_run_that_the_user_deleted_stays_deleted(root):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    client(root).delete_run(mlflow_run(root, "pretrain").info.run_id)
    log.scalars({"train/loss": 1.0}, 2)
    send(root)
    send(root)
    run = mlflow_run(root, "pretrain", run_view_type=ViewType.ALL)
    assert run.info.lifecycle_stage == "deleted"


def test_artifacts_arrive(root):
    log = open_log(root, "pretrain")
    (root / "results").mkdir()
    (root / "results" / "table.md").write_text("| a |")
    log.event("artifact", path="results/table.md", to="report")
    send(root)
    run = mlflow_run(root, "pretrain")
    assert [a.path for a in client(root).list_artifacts(run.info.run_id, "report")] == ["report/table.md"]


def test_a_missing_artifact_is_reported_and_skipped(root, capsys):
    log = open_log(root, "pretrain")
    log.event("artifact", path="results/gone.md", to="report")
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    assert steps(root, "pretrain") == [1]
    assert "results/gone.md: no such file" in capsys.readouterr().err


def test_a_missing_model_is_reported_and_skipped(root, capsys):
    log = open_log(root, "pretrain")
    log.event("model", path=str(Path("results", "model")), name="set", alias="best", key="0", tags={})
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    assert steps(root, "pretrain") == [1]
    assert "results/model: no such file. Nothing was registered" in capsys.readouterr().err


@pytest.mark.parametrize(("cpu_seconds", "pause"), [(0.0, 2.0), (0.06, 2.0), (0.12, 4.0), (3.0, 6.0)])
def test_an_expensive_pass_is_followed_by_a_longer_pause(cpu_seconds, pause):
    assert _pause_seconds(cpu_seconds) == pytest.approx(pause)

"""The mirror: every point arrives exactly once, whatever dies."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from mlflow.entities import ViewType
from mlflow.tracking import MlflowClient

from mem.errors import UserError
from mem.tracking import server
from mem.tracking.log import JsonLines
from mem.tracking.mirror import Mirror, sync
from mem.tracking.ui import open_ui

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
        for number, stage in enumerate(("pretrain", "finetune", "features", "train_head", "evaluate"), 2)
    },
}


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory) -> Path:
    """A database with MLflow's tables: making them takes seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    list(server.all_runs(server.client(f"sqlite:///{path}")))
    return path


@pytest.fixture
def root(tmp_path, empty_database, monkeypatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_database, tmp_path / "runs" / "mlflow.db")
    return tmp_path


LOGS: list[JsonLines] = []


@pytest.fixture(autouse=True)
def close_logs():
    yield
    while LOGS:
        LOGS.pop().close()


def open_log(root: Path, stage: str) -> JsonLines:
    log = JsonLines(root / "runs" / "set" / FOLDERS[stage] / "log.jsonl")
    LOGS.append(log)
    log.event(
        "start",
        stage=stage,
        key=FOLDERS[stage][-12:],
        dataset="set",
        backbone="vit",
        labels={"order": 0, "seed": 3, "variant": "mem", "method": "mem"}
        if "head" in stage
        else {"order": 0, "seed": 3},
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


def mlflow_run(root: Path, stage: str, **filters):
    own = client(root)
    ids = [e.experiment_id for e in own.search_experiments()]
    found = [r for r in own.search_runs(ids, **filters) if r.data.tags["stage"] == stage]
    assert len(found) == 1, [r.data.tags for r in found]
    return found[0]


def steps(root: Path, stage: str, metric: str = "train/loss") -> list[int]:
    return [p.step for p in client(root).get_metric_history(mlflow_run(root, stage).info.run_id, metric)]


def send(root: Path) -> Mirror:
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    return mirror


def test_runs_are_nested_along_the_lineage_and_scores_stand_with_their_head(root):
    for stage in FOLDERS:
        log = open_log(root, stage)
        if stage == "evaluate":
            log.scalars({"test/all": 91.5, "val/all": 92.0}, step=0)
        log.event("end", status="finished")
        log.close()
    send(root)
    runs = {stage: mlflow_run(root, stage) for stage in FOLDERS if stage != "evaluate"}
    parent = {stage: run.data.tags.get("mlflow.parentRunId") for stage, run in runs.items()}
    assert parent == {
        "convert": None,
        "pretrain": None,
        "finetune": runs["pretrain"].info.run_id,
        "features": runs["finetune"].info.run_id,
        "train_head": runs["finetune"].info.run_id,
    }
    head = runs["train_head"]
    assert head.data.metrics == {"test/all": 91.5, "val/all": 92.0}
    assert head.data.params["head.xi"] == "20.0"
    assert head.data.params["head.training.lr"] == "0.1"
    expected = {
        "stage": "train_head", "method": "mem", "dataset": "set", "backbone": "vit", "seed": "3", "git_sha": "abc",
        "config_digest": "000000000005", "slurm_job_id": "17", "restarts": "2",
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


def test_a_living_mirror_sends_what_comes_and_a_new_one_nothing_twice(root):
    log = open_log(root, "pretrain")
    mirror = Mirror(root, server.tracking_uri(root))
    for step in range(1, 6):
        log.scalars({"train/loss": 1.0}, step)
        mirror.send_new()
    log.scalars({"train/loss": 1.0}, 6)
    send(root)
    assert send(root).lines == 0
    assert steps(root, "pretrain") == [1, 2, 3, 4, 5, 6]


def test_a_mirror_that_died_between_sending_and_noting_it_doubles_nothing(root, monkeypatch):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    log.scalars({"train/loss": 2.0}, 2)
    log.scalars({"train/loss": 3.0}, 3)
    real = server.send

    def dies(own, run_id, metrics, params, tags):
        real(own, run_id, metrics[:1], params, {})
        raise KeyboardInterrupt

    monkeypatch.setattr(server, "send", dies)
    with pytest.raises(KeyboardInterrupt):
        send(root)
    monkeypatch.setattr(server, "send", real)
    assert steps(root, "pretrain") == [1, 2]
    send(root)
    assert steps(root, "pretrain") == [1, 2, 3]


def test_a_line_that_is_being_written_waits(root):
    log = open_log(root, "pretrain")
    path = root / "runs" / "set" / FOLDERS["pretrain"] / "log.jsonl"
    log.scalars({"train/loss": 1.0}, 1)
    with open(path, "ab") as file:
        file.write(b'{"time": %.3f, "event": "metrics", "step": 2, "metr' % time.time())
    mirror = send(root)
    assert steps(root, "pretrain") == [1]
    with open(path, "ab") as file:
        file.write(b'ics": {"train/loss": 2.0}}\n')
    mirror.send_new()
    assert steps(root, "pretrain") == [1, 2]


def test_a_long_log_goes_in_several_requests(root):
    log = open_log(root, "pretrain")
    for step in range(1, 701):
        log.scalars({"a": step, "b": -step, "c": 0.5}, step)
    send(root)
    assert steps(root, "pretrain", "b") == list(range(1, 701))


def test_a_run_that_goes_on_after_a_stop_is_running_again_and_stays_one_run(root):
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


def test_a_run_that_was_made_anew_is_another_run_in_mlflow(root):
    path = root / "runs" / "set" / FOLDERS["pretrain"] / "log.jsonl"
    log = open_log(root, "pretrain")
    for step in range(1, 9):
        log.scalars({"train/loss": 1.0}, step)
    log.close()
    mirror = send(root)
    path.rename(path.with_name("log-1.jsonl"))
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 5.0}, 1)
    mirror.send_new()
    send(root)
    own = client(root)
    runs = own.search_runs([own.get_experiment_by_name("set").experiment_id])
    histories = sorted([p.step for p in own.get_metric_history(r.info.run_id, "train/loss")] for r in runs)
    assert histories == [[1], list(range(1, 9))]


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


def test_an_artifact_that_is_gone_is_passed_over_with_a_word(root, capsys):
    log = open_log(root, "pretrain")
    log.event("artifact", path="results/gone.md", to="report")
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    assert steps(root, "pretrain") == [1]
    assert "results/gone.md" in capsys.readouterr().err


def test_a_mirror_killed_while_it_sends_is_made_up_for(root):
    log = open_log(root, "pretrain")
    process = subprocess.Popen(
        [sys.executable, "-m", "mem.cli", "track", "follow"],
        cwd=root,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 90
        step = 0
        while time.monotonic() < deadline and len(steps_if_any(root)) < 30:
            for _ in range(20):
                step += 1
                log.scalars({"train/loss": step, "train/lr": step}, step)
            time.sleep(0.05)
        assert len(steps_if_any(root)) >= 30
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    for _ in range(50):
        step += 1
        log.scalars({"train/loss": step, "train/lr": step}, step)
    assert sync(root) == 0
    for metric in ("train/loss", "train/lr"):
        assert Counter(steps(root, "pretrain", metric)) == Counter(range(1, step + 1))


def steps_if_any(root: Path) -> list[int]:
    try:
        return steps(root, "pretrain")
    except AssertionError:
        return []


def test_follow_sends_the_rest_and_ends_when_its_parent_does(root):
    log = open_log(root, "pretrain")
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    follower = subprocess.Popen(
        [sys.executable, "-m", "mem.cli", "track", "follow", "--parent", str(parent.pid)], cwd=root
    )
    log.scalars({"train/loss": 1.0}, 1)
    time.sleep(1)
    parent.communicate(b"\n")
    assert follower.wait(60) == 0
    assert steps(root, "pretrain") == [1]


def test_two_mirrors_do_not_work_side_by_side(root):
    with server.sole_writer(root, 0) as first, server.sole_writer(root, 0) as second:
        assert (first, second) == (True, False)


def test_a_server_that_does_not_answer_is_named_and_nothing_is_lost(root, monkeypatch):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    with pytest.raises(UserError, match=rf"http://127\.0\.0\.1:{port} cannot be used.*`mem track sync` sends it"):
        sync(root)
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    sync(root)
    assert steps(root, "pretrain") == [1]


def test_a_port_in_use_is_named(root):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {port} on 127.0.0.1 cannot be used"):
            open_ui(root, "127.0.0.1", port)


def test_the_ui_needs_a_database(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(UserError, match="no database yet"):
        open_ui(tmp_path, "127.0.0.1", 5000)


def test_the_ui_of_a_server_is_the_servers(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://tracking.example.org")
    with pytest.raises(UserError, match=r"open that address in a browser"):
        open_ui(tmp_path, "127.0.0.1", 5000)


def test_a_report_that_is_made_once_more_stays_one_run(root):
    path = root / "runs" / "set" / "vit" / "report-00000000000a" / "log.jsonl"
    (root / "table.md").write_text("| a |")
    mirror = Mirror(root, server.tracking_uri(root))
    for number in (1, 2):
        FOLDERS["report"] = "vit/report-00000000000a"
        log = open_log(root, "report")
        log.event("artifact", path="table.md", to="report")
        log.event("end", status="finished")
        log.close()
        mirror.send_new()
        path.rename(path.with_name(f"log-{number}.jsonl"))
    del FOLDERS["report"]
    send(root)
    assert mlflow_run(root, "report").info.status == "FINISHED"

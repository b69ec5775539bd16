"""A log that cannot be sent is reported, and does not keep the mirror from sending the other logs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mem.errors import UserError
from mem.tracking import server
from mem.tracking.commands import sync
from mem.tracking.mirror import Mirror
from tests.tracking.logs import FOLDERS, log_path, mlflow_run, open_log, send, steps
from tests.waiting import wait

LINES = {
    "damaged": (b'{"time": 1.0, "event": "metr\0\0\0\n', "ValueError: the line at byte"),
    "without a step": (
        b'{"time": 1.0, "event": "metrics", "metrics": {"train/loss": 1.0}}\n',
        "the field `step` is missing or is not an integer",
    ),
    "rejected by the server": (
        b'{"time": 1.0, "event": "metrics", "step": 2, "metrics": {"train,loss": 1.0}}\n',
        "Invalid value|Invalid metric",
    ),
}


def add_line(path: Path, line: bytes) -> None:
    with open(path, "ab") as file:
        file.write(line)


@pytest.mark.parametrize("problem", LINES)
def test_one_bad_line_does_not_keep_the_other_logs_from_being_sent(root, problem):
    line, message = LINES[problem]
    for stage in ("convert", "pretrain", "finetune"):
        open_log(root, stage).scalars({"train/loss": 1.0}, 1)
    send(root)
    add_line(log_path(root, "pretrain"), line)
    open_log(root, "features").scalars({"train/loss": 1.0}, 1)
    open_log(root, "finetune").scalars({"train/loss": 2.0}, 2)
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert list(mirror.failed) == [log_path(root, "pretrain")]
    text = mirror.failed[log_path(root, "pretrain")]
    assert text.startswith(f"{log_path(root, 'pretrain')}: the rest of this log cannot be sent to MLflow (")
    assert any(part in text for part in message.split("|")), text
    assert steps(root, "finetune") == [1, 2]
    assert steps(root, "features") == [1]

    with open(log_path(root, "pretrain"), "r+b") as file:
        file.truncate(log_path(root, "pretrain").stat().st_size - len(line))
    add_line(
        log_path(root, "pretrain"), b'{"time": 2.0, "event": "metrics", "step": 2, "metrics": {"train/loss": 2}}\n'
    )
    send(root)
    assert sorted(steps(root, "pretrain")) == [1, 2]


def test_the_lines_before_a_damaged_line_are_sent(root):
    log = open_log(root, "pretrain")
    log.scalars({"train/loss": 1.0}, 1)
    add_line(log_path(root, "pretrain"), LINES["damaged"][0])
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert steps(root, "pretrain") == [1]
    assert "the line at byte" in mirror.failed[log_path(root, "pretrain")]


@pytest.mark.parametrize("first_line_is_damaged", [False, True])
def test_a_run_with_a_bad_input_log_is_sent(root, first_line_is_damaged):
    for stage in ("pretrain", "features", "train_head", "evaluate"):
        open_log(root, stage).scalars({f"test/{stage}": 1.0}, 1)
    for stage in ("pretrain", "features"):
        path = log_path(root, stage)
        path.write_bytes(b"\0\n" if first_line_is_damaged else path.read_bytes() + b"\0\n")
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert set(mirror.failed) == {log_path(root, "pretrain"), log_path(root, "features")}
    assert mlflow_run(root, "train_head").data.metrics == {"test/train_head": 1.0, "test/evaluate": 1.0}


def test_a_log_that_cannot_be_read_is_reported_and_the_others_are_sent(root):
    log_path(root, "convert").mkdir(parents=True)
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    with pytest.raises(UserError, match=r"Some logs were not sent:\n.*/log\.jsonl: .*\(IsADirectoryError"):
        sync(root)
    assert steps(root, "pretrain") == [1]
    shutil.rmtree(log_path(root, "convert"))
    assert sync(root) == 0


def test_a_damaged_description_of_the_dataset_is_reported_and_the_run_is_sent(root, capsys):
    (root / "runs" / "set" / FOLDERS["convert"]).mkdir(parents=True)
    manifest = root / "runs" / "set" / FOLDERS["convert"] / "dataset.json"
    manifest.write_text(json.dumps({"classes": []})[:-3])
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    send(root)
    assert steps(root, "pretrain") == [1]
    assert f"{manifest}: cannot read this file" in capsys.readouterr().err


@pytest.mark.stage
def test_a_running_mirror_reports_a_bad_log_once_and_ends_with_status_1(root):
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    log_path(root, "convert").mkdir(parents=True)
    with open(root / "mirror.log", "wb") as out:
        command = [sys.executable, "-m", "mem.cli", "track", "follow"]
        mirror = subprocess.Popen(command, cwd=root, stdout=out, stderr=out)
    try:
        wait(lambda: "cannot be sent" in (root / "mirror.log").read_text(), seconds=90)
        wait(lambda: steps(root, "pretrain") == [1])
        open_log(root, "finetune").scalars({"train/loss": 1.0}, 1)
        mirror.terminate()
        assert mirror.wait(90) == 1
    finally:
        mirror.kill()
        mirror.wait()
    assert steps(root, "finetune") == [1]
    assert (root / "mirror.log").read_text().count("the rest of this log cannot be sent") == 1

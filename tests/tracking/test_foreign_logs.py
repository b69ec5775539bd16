"""Logs from other people and from damaged disks: no file from elsewhere is sent, and every bad line gets a message."""

from __future__ import annotations

import json
import os

import pytest

from mem.tracking import log_events, server
from mem.tracking.log_events import parse_event
from mem.tracking.mirror import Mirror
from tests.tracking.logs import FOLDERS, client, log_path, mlflow_run, open_log, send, steps
from tests.tracking.test_bad_logs import add_line


def sent_files(root) -> list[str]:
    return sorted(path.name for path in (root / "runs" / "mlflow-artifacts").rglob("*") if path.is_file())


@pytest.fixture
def secret(root, tmp_path_factory):
    """A file outside the working folder."""
    path = tmp_path_factory.mktemp("elsewhere") / "secret.txt"
    path.write_text("secret")
    return path


@pytest.mark.parametrize("kind", ["absolute", "parents", "link", "link in a folder", "linked folder", "pipe"])
def test_a_file_outside_the_working_folder_is_not_sent(root, secret, capsys, kind):
    (root / "folder").mkdir()
    (root / "folder" / "harmless.txt").write_text("harmless")
    match kind:
        case "absolute":
            path = str(secret)
        case "parents":
            path = os.path.relpath(secret, root)
        case "link":
            (root / "link.txt").symlink_to(secret)
            path = "link.txt"
        case "link in a folder":
            (root / "folder" / "link.txt").symlink_to(secret)
            path = "folder"
        case "linked folder":
            (root / "folder" / "link").symlink_to(secret.parent)
            path = "folder"
        case _:
            os.mkfifo(root / "folder" / "pipe")
            path = "folder"
    log = open_log(root, "pretrain")
    log.event("artifact", path=path, to="report")
    log.event("model", path=path, name="set", alias="best", key="0", tags={})
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    said = capsys.readouterr().err
    assert "It is not sent to MLflow." in said
    assert ("is neither a file nor a folder" if kind == "pipe" else "leads out of the working folder") in said
    assert sent_files(root) == []
    assert client(root).search_registered_models() == []
    assert steps(root, "pretrain") == [1]


@pytest.mark.parametrize("to", ["../../elsewhere", "/tmp/elsewhere", "a/../../b"])
def test_a_destination_outside_the_artifacts_is_refused_and_the_log_is_sent(root, capsys, to):
    (root / "table.md").write_text("| a |")
    log = open_log(root, "pretrain")
    log.event("artifact", path="table.md", to=to)
    log.scalars({"train/loss": 1.0}, 1)
    send(root)
    assert "is not a folder among the artifacts. It is not sent" in capsys.readouterr().err
    assert (sent_files(root), steps(root, "pretrain")) == ([], [1])


def test_runs_and_results_may_be_links_to_another_disk(root, tmp_path_factory):
    disk = tmp_path_factory.mktemp("disk")
    (root / "runs").rename(disk / "runs")
    (disk / "results").mkdir()
    for name in ("runs", "results"):
        (root / name).symlink_to(disk / name)
    (root / "results" / "table.md").write_text("| a |")
    log = open_log(root, "pretrain")
    log_path(root, "pretrain").with_name("sheet.png").write_bytes(b"image")
    log.event("artifact", path="results/table.md", to="report")
    log.event("artifact", path=f"runs/set/{FOLDERS['pretrain']}/sheet.png", to="report")
    send(root)
    assert sent_files(root) == ["sheet.png", "table.md"]


@pytest.mark.parametrize("stage", ["evaluate", "train_head", "pretrain"])
def test_an_input_outside_the_working_folder_is_not_read(root, tmp_path_factory, stage):
    other = tmp_path_factory.mktemp("other")
    for name in FOLDERS:
        if name != stage:
            open_log(other, name).scalars({"train/loss": 1.0}, 1)
    (other / "runs" / "set" / FOLDERS["convert"] / "dataset.json").write_text('{"secret": 1}')
    log = open_log(root, stage)
    log.close()
    path = log_path(root, stage)
    path.write_text(path.read_text().replace('"runs/set/', f'"{other}/runs/set/'))
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert list(mirror.failed) == [path]
    assert "is not in the working folder" in mirror.failed[path]
    experiment = client(root).get_experiment_by_name("set")
    runs = client(root).search_runs([experiment.experiment_id]) if experiment else []
    assert {run.data.tags["stage"] for run in runs} <= {stage}


@pytest.mark.parametrize("name", ["log.jsonl", "dataset.json"])
def test_a_link_to_a_log_or_a_dataset_elsewhere_is_not_followed(root, tmp_path_factory, capsys, name):
    other = tmp_path_factory.mktemp("other")
    for stage in ("convert", "pretrain"):
        open_log(other, stage).scalars({"train/loss": 1.0}, 1)
        log_path(root, stage).parent.mkdir(parents=True)
    secret = other / "runs" / "set" / FOLDERS["convert"] / "dataset.json"
    secret.write_text('{"classes": ["secret"], "splits": {}, "groups": {}, "imbalance": 1}')
    if name == "log.jsonl":
        log_path(root, "pretrain").symlink_to(log_path(other, "pretrain"))
    else:
        open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
        log_path(root, "convert").with_name(name).symlink_to(secret)
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    if name == "log.jsonl":
        assert "leads out of the working folder" in mirror.failed[log_path(root, "pretrain")]
        assert client(root).get_experiment_by_name("set") is None
    else:
        assert "leads out of the working folder" in capsys.readouterr().err
        assert not mlflow_run(root, "pretrain").inputs.dataset_inputs


@pytest.mark.parametrize("name", ["..", "../elsewhere", "/tmp"])
def test_the_artifacts_of_an_experiment_are_always_below_runs(root, name):
    log = open_log(root, "pretrain")
    log.close()
    path = log_path(root, "pretrain")
    path.write_text(path.read_text().replace('"dataset": "set"', f'"dataset": {json.dumps(name)}'))
    open_log(root, "finetune").scalars({"train/loss": 1.0}, 1)
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert list(mirror.failed) == [path]
    assert steps(root, "finetune") == [1]
    assert [e.name for e in client(root).search_experiments()] == ["set", "Default"]


BAD_LINES = {
    "a list": b"[]",
    "a number": b"1",
    "no time": b'{"event": "metrics", "step": 1, "metrics": {"a": 1}}',
    "text as time": b'{"time": "now", "event": "end", "status": "finished"}',
    "NaN as time": b'{"time": NaN, "event": "end", "status": "finished"}',
    "a time after the end of time": b'{"time": 1e300, "event": "end", "status": "finished"}',
    "a list as event": b'{"time": 1, "event": ["metrics"]}',
    "a list as metrics": b'{"time": 1, "event": "metrics", "step": 1, "metrics": [1]}',
    "text as metric": b'{"time": 1, "event": "metrics", "step": 1, "metrics": {"a": "b"}}',
    "a huge metric": b'{"time": 1, "event": "metrics", "step": 1, "metrics": {"a": 1' + 400 * b"0" + b"}}",
    "a huge step": b'{"time": 1, "event": "metrics", "step": 1' + 30 * b"0" + b', "metrics": {"a": 1}}',
    "a fraction as step": b'{"time": 1, "event": "metrics", "step": 1.5, "metrics": {"a": 1}}',
    "NaN as key": b'{"time": 1, "event": "metrics", "step": 1, "metrics": {NaN: 1}}',
    "deep nesting": b'{"time": 1, "event": "x", "a": ' + 100_000 * b"[" + 100_000 * b"]" + b"}",
    "a number of 5000 digits": b'{"time": 1, "event": "x", "a": ' + 5000 * b"1" + b"}",
    "no path": b'{"time": 1, "event": "artifact", "to": "report"}',
    "a list of tags": b'{"time": 1, "event": "model", "path": "a", "name": "b", "alias": "c", "key": "d", "tags": []}',
    "an unknown status": b'{"time": 1, "event": "end", "status": "asleep"}',
    "a second start without labels": b'{"time": 1, "event": "start", "stage": "pretrain", "key": "0"}',
    "invalid UTF-8": b'{"time": 1, "event": "\xff"}',
}


@pytest.mark.parametrize("kind", BAD_LINES)
def test_a_bad_line_is_described_in_one_message(kind):
    with pytest.raises(ValueError) as error:
        parse_event(BAD_LINES[kind])
    assert type(error.value) in (ValueError, json.JSONDecodeError, UnicodeDecodeError)
    assert len(str(error.value).splitlines()) == 1


def test_all_kinds_of_bad_lines_stop_only_their_log(root):
    """Some of these lines made the database fail, which looked like an unavailable server and stopped all logs."""
    for number, line in enumerate(BAD_LINES.values()):
        folder = root / "runs" / "set" / "vit" / f"pretrain-{number:012d}0"
        folder.mkdir(parents=True)
        log = open_log(root, "pretrain")
        log.close()
        start = log_path(root, "pretrain").read_bytes()
        log_path(root, "pretrain").unlink()
        (folder / "log.jsonl").write_bytes(start.replace(b'"set"', b'"bad"') + line + b"\n")
    open_log(root, "train_head").scalars({"train/loss": 1.0}, 1)
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert len(mirror.failed) == len(BAD_LINES)
    assert all("ValueError: the line at byte" in message for message in mirror.failed.values())
    assert steps(root, "train_head") == [1]


@pytest.mark.parametrize("complete", [False, True])
def test_a_huge_line_is_not_read_into_memory(root, monkeypatch, complete):
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    monkeypatch.setattr(log_events, "MAX_LINE_BYTES", 10_000)
    monkeypatch.setattr("mem.tracking.log.MAX_LINE_BYTES", 10_000)
    add_line(log_path(root, "pretrain"), b'{"time": 1, "event": "' + 20_000 * b"x" + (b'"}\n' if complete else b""))
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert "it is longer than 10,000 bytes" in mirror.failed[log_path(root, "pretrain")]
    assert steps(root, "pretrain") == [1]


def test_a_pipe_instead_of_a_log_is_reported(root):
    log_path(root, "convert").parent.mkdir(parents=True)
    os.mkfifo(log_path(root, "convert"))
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert "this is not a file" in mirror.failed[log_path(root, "convert")]
    assert steps(root, "pretrain") == [1]


def test_names_that_are_not_utf8_are_sent_with_escapes(root):
    log = open_log(root, "pretrain")
    log.close()
    path = log_path(root, "pretrain")
    path.write_text(path.read_text().replace('"xi": 20.0', '"xi": "caf\\udce9\\u0000"'))
    send(root)
    assert mlflow_run(root, "pretrain").data.params["head.xi"] == r"caf\udce9\x00"


def test_a_start_event_with_nested_settings_is_refused(root):
    log = open_log(root, "pretrain")
    log.close()
    path = log_path(root, "pretrain")
    path.write_text(path.read_text().replace('"xi": 20.0', f'"xi": {200 * "["}{200 * "]"}'))
    mirror = Mirror(root, server.tracking_uri(root))
    mirror.send_new()
    assert "its values are nested too deeply" in mirror.failed[path]

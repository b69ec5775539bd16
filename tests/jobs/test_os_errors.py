"""A stage reports a full disk or a missing permission with one message that names the file or the run folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.errors import UserError
from mem.jobs.job import run_stage
from mem.runs.dag import study_runs
from mem.runs.run_config import write_configs
from mem.tracking.log import JsonLines
from tests.conftest import REPOSITORY

pytestmark = pytest.mark.stage


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Configuration of the `convert` run of the mini study."""
    study = load_study([REPOSITORY / "tests" / "mini.yaml"])
    run = study_runs(study)[0]
    write_configs([run], study, tmp_path)
    return tmp_path / run.folder / "config.yaml"


def fail(error: Exception) -> Callable:
    def stage(job: object) -> dict:
        raise error

    return stage


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_without_a_file_name_is_reported_with_the_run_folder(config, capsys, number):
    status = run_stage("convert", fail(OSError(number, os.strerror(number))), config, None, None, {})
    assert status == 2
    assert capsys.readouterr().err == (
        f"mem convert: {config.parent}: the disk is full. No incomplete output was left. Free disk space and run the "
        "command again.\n"
    )


def test_a_permission_error_without_a_file_name_is_reported_with_the_output_folder(config, tmp_path, capsys):
    error = fail(OSError(errno.EROFS, "Read-only file system"))
    assert run_stage("convert", error, config, tmp_path / "out", None, {}) == 2
    assert f"mem convert: {tmp_path}/out: no permission to write." in capsys.readouterr().err


def test_the_first_error_is_reported_if_the_log_cannot_be_written_either(config, monkeypatch, capsys):
    original = JsonLines.event

    def event(self: JsonLines, kind: str, **fields: object) -> None:
        if kind == "end":
            raise OSError(errno.ENOSPC, "No space left on device")
        original(self, kind, **fields)

    monkeypatch.setattr(JsonLines, "event", event)
    assert run_stage("convert", fail(UserError("17 of 20 images were converted")), config, None, None, {}) == 2
    assert capsys.readouterr().err == "mem convert: 17 of 20 images were converted\n"


def test_a_message_file_that_cannot_grow_is_reported_once_and_the_stage_finishes(config, tmp_path, file_limit, capsys):
    messages = tmp_path / "logs" / "convert.log"
    messages.parent.mkdir()
    messages.write_text("x" * 100_000)

    def stage(job) -> dict:
        job.say("one")
        job.say("two")
        return {}

    with file_limit(100_000):
        assert run_stage("convert", stage, config, None, messages, {}) == 0
    shown = capsys.readouterr().err
    assert shown.count(f"{messages}: messages cannot be written: ") == 1
    assert "one\ntwo\n" in shown
    assert "Traceback" not in shown

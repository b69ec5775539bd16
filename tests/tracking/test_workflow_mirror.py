"""The workflow process starts the mirror, and reports a mirror that ended early or sent less than everything."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mem.errors import UserError
from mem.jobs.signals import WORKFLOW_VARIABLE
from mem.tracking import limits, server
from mem.workflow_process import WorkflowProcess
from tests.tracking.logs import open_log, steps

pytestmark = pytest.mark.stage


@pytest.fixture
def workflow(root, monkeypatch) -> Iterator[WorkflowProcess]:
    """A started workflow process in `root`."""
    monkeypatch.setenv(WORKFLOW_VARIABLE, "")
    process = WorkflowProcess(root, Path("build/demo"))
    process.start()
    yield process
    process.stop()
    assert process._lock is not None
    process._lock.close()


def kill(mirror: subprocess.Popen) -> None:
    mirror.kill()
    mirror.wait()


def end_with_status_0(mirror: subprocess.Popen) -> None:
    mirror.terminate()
    assert mirror.wait(limits.KILL_SECONDS) == 0


@pytest.mark.parametrize(
    ("end", "status"), [(kill, "killed by SIGKILL"), (end_with_status_0, "exit status 0")], ids=["killed", "status 0"]
)
def test_a_mirror_that_ended_early_is_reported_and_a_new_one_sends_the_rest(
    root: Path, workflow: WorkflowProcess, end: Callable, status: str, capsys: pytest.CaptureFixture
):
    assert workflow._mirror is not None
    end(workflow._mirror)
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    workflow.stop()
    message = capsys.readouterr().err
    assert f"The MLflow mirror ended before the workflow did ({status})." in message
    assert "See build/demo/logs/mlflow-mirror.log." in message
    assert "A new mirror sent the remaining points. To check this, run `cd build/demo && mem track sync`." in message
    assert steps(root, "pretrain") == [1]


def test_a_workflow_that_ends_while_its_mirror_starts_loses_no_points(root, workflow, capsys):
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    workflow.stop()
    assert capsys.readouterr().err == ""
    assert steps(root, "pretrain") == [1]


@pytest.fixture
def lock(root: Path) -> Iterator[None]:
    """The mirror lock of `root`, held by this process."""
    with server.sole_writer(root, 0):
        yield


@pytest.mark.usefixtures("lock")
def test_a_mirror_that_cannot_send_everything_is_killed_at_the_time_limit_and_reported(workflow, monkeypatch, capsys):
    monkeypatch.setattr(limits, "KILL_SECONDS", 11.0)
    workflow.stop()
    shown = capsys.readouterr()
    assert "Sending the remaining points to MLflow, for up to 1 s. Press Ctrl-C to skip this." in shown.out
    assert "Some points were not sent to MLflow" in shown.err
    assert "Run `cd build/demo && mem track sync` to send them." in shown.err


def test_ctrl_c_skips_the_last_pass(root, workflow, monkeypatch, capsys):
    monkeypatch.setattr(subprocess.Popen, "wait", _interrupt_once(subprocess.Popen.wait))
    workflow.stop()
    assert "Some points were not sent to MLflow" in capsys.readouterr().err


def _interrupt_once(wait: Callable) -> Callable:
    calls: list[object] = []

    def interrupted(self: subprocess.Popen, *arguments: float) -> int:
        calls.append(self)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return wait(self, *arguments)

    return interrupted


def test_a_refused_workflow_process_changes_neither_the_lock_nor_the_mirror_of_the_first(root, workflow):
    lock = root / ".snakemake" / "mem-head.lock"
    before = lock.read_text()
    second = WorkflowProcess(root)
    with pytest.raises(
        UserError, match=f"Another workflow process is running in this folder: process {os.getpid()} on "
    ):
        second.start()
    second.stop()
    assert lock.read_text() == before
    assert workflow._mirror is not None
    assert workflow._mirror.poll() is None


def test_a_workflow_process_that_ends_with_an_exception_reports_its_mirror(root):
    script = """
from pathlib import Path
from mem.workflow_process import WorkflowProcess
process = WorkflowProcess(Path())
process.start()
process._mirror.kill()
process._mirror.wait()
raise RuntimeError
"""
    open_log(root, "pretrain").scalars({"train/loss": 1.0}, 1)
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert "The MLflow mirror ended before the workflow did (killed by SIGKILL)" in done.stderr
    assert steps(root, "pretrain") == [1]

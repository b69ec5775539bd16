"""A stage that is interrupted at its end, after its results are computed and before it has finished."""

from __future__ import annotations

import errno
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from mem.data.features.writer import FeatureWriter
from mem.jobs import job
from mem.runs.folder import RunFolder
from mem.tracking.log import read_events
from tests.stages.interruption import stop_finetuning
from tests.stages.running import call_mem, mini_run

pytestmark = pytest.mark.stage
STEP = 2


@pytest.fixture
def interrupted(study, tmp_path, monkeypatch) -> RunFolder:
    """A finetuning that was stopped after two steps, in the working folder `tmp_path`."""
    return RunFolder(stop_finetuning(tmp_path, study, mini_run("finetune"), STEP, monkeypatch))


def resume(folder: Path, status: int = 0) -> None:
    call_mem(folder, "finetune", "--config", str(mini_run("finetune").folder / "config.yaml"), status=status)


def test_checkpoints_are_kept_until_the_run_has_a_record(interrupted, tmp_path, monkeypatch):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(interrupted.record))

    with monkeypatch.context() as patch:
        patch.setattr(job, "write_record", full)
        resume(tmp_path, status=2)
    assert list(interrupted.checkpoints.glob("step-*.pt"))
    for output in interrupted.path.glob("*.safetensors"):
        output.unlink()  # as Snakemake does after a failed job
    resume(tmp_path)
    resumed = [event["step"] for event in read_events(interrupted.log) if event["event"] == "resumed"]
    assert resumed == [STEP, STEP]
    assert interrupted.finished()
    assert not interrupted.checkpoints.exists()


def test_a_stop_request_at_the_end_does_not_lose_the_training(interrupted, tmp_path, monkeypatch):
    write_record = job.write_record

    def stopped(*arguments: Any) -> None:
        signal.raise_signal(signal.SIGTERM)
        write_record(*arguments)

    monkeypatch.setattr(job, "write_record", stopped)
    resume(tmp_path)
    assert interrupted.finished()


def test_a_stop_request_while_features_get_their_names_does_not_lose_them(study, tmp_path, monkeypatch):
    run = mini_run("features")
    for earlier in run.lineage():
        (tmp_path / earlier.folder).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / earlier.folder).symlink_to(study / earlier.folder)
    target = RunFolder(tmp_path / run.folder)
    target.path.mkdir(parents=True)
    for file in ("config.yaml", "site.yaml"):
        shutil.copy(study / run.folder / file, target.path / file)
    finish = FeatureWriter.finish

    def stopped(writer: FeatureWriter) -> None:
        signal.raise_signal(signal.SIGTERM)
        finish(writer)

    monkeypatch.setattr(FeatureWriter, "finish", stopped)
    call_mem(tmp_path, "features", "--config", str(run.folder / "config.yaml"))
    assert target.finished()
    assert (target.path / "train-pooled.npy").is_file()

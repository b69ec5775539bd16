"""Repeat a stage that is interrupted and resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from mem.runs.dag import Run
from mem.tracking.log import read_events
from mem.train import loop
from mem.train.context import FitContext
from mem.train.meters import FiniteWatch
from mem.train.schedules import Schedule
from mem.train.state import TrainState
from tests.stages.running import call_mem


def interrupt_finetuning(folder: Path, finished: Path, run: Run, step: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Repeat a finished finetuning, interrupted by SIGTERM after a step and resumed, and return its run folder.

    Arguments are those of `stop_finetuning`.
    """
    target = stop_finetuning(folder, finished, run, step, monkeypatch)
    call_mem(folder, "finetune", "--config", str(run.folder / "config.yaml"))
    assert [e["step"] for e in read_events(target / "log.jsonl") if e["event"] == "resumed"] == [step]
    return target


def stop_finetuning(folder: Path, finished: Path, run: Run, step: int, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Repeat a finished finetuning, which SIGTERM stops after a step, and return its run folder.

    Args:
        folder: Working directory.
        finished: Working directory in which the run and its inputs are finished.
        run: The run of the stage `finetune`.
        step: The step.
        monkeypatch: Fixture of the test.
    """
    for earlier in run.lineage():
        (folder / earlier.folder).parent.mkdir(parents=True, exist_ok=True)
        (folder / earlier.folder).symlink_to(finished / earlier.folder)
    target = folder / run.folder
    target.mkdir(parents=True)
    for file in ("config.yaml", "site.yaml"):
        (target / file).write_bytes((finished / run.folder / file).read_bytes())
    save_or_stop = loop._save_or_stop

    def stop_at_step(state: TrainState, schedule: Schedule, context: FitContext, watch: FiniteWatch) -> None:
        if state.step == step:
            signal.raise_signal(signal.SIGTERM)
        save_or_stop(state, schedule, context, watch)

    with monkeypatch.context() as patch:
        patch.setattr(loop, "_save_or_stop", stop_at_step)
        call_mem(folder, "finetune", "--config", str(run.folder / "config.yaml"), status=143)
    return target

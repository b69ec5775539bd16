"""The cost tables of a report."""

from __future__ import annotations

import json

import pytest

from mem.report.cost import cost_by_run, cost_by_stage
from mem.runs.dag import Run, study_runs
from mem.stages.report import _record_with_total_seconds
from tests.report.synthetic import write_runs
from tests.runs.test_attempts import LINES, write_log


def pretrain_row(table: list[list[str]]) -> dict[str, str]:
    """Return the cells of the pretraining run by column."""
    return next(dict(zip(table[0], row, strict=True)) for row in table if row[0].startswith("pretrain"))


@pytest.fixture
def pretrain(tmp_path, monkeypatch, mini) -> Run:
    """A pretraining run of an earlier version, on two GPUs. It finished in its third attempt, which took 1.9 s."""
    write_runs(tmp_path, mini)
    monkeypatch.chdir(tmp_path)
    run = next(run for run in study_runs(mini) if run.stage == "pretrain")
    path = run.folder / "run.json"
    compute = {"nodes": 1, "gpus_per_node": 2}
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seconds": 1.9, "attempts": 3, "compute": compute}))
    write_log(run.folder / "log.jsonl", LINES)
    return run


def test_hours_include_every_attempt(pretrain):
    records = {pretrain.key: _record_with_total_seconds(pretrain)}
    row = pretrain_row(cost_by_stage([pretrain], records))
    assert (row["hours"], row["GPU-hours"], row["restarts"]) == ("0.015", "0.029", "2")  # 52.4 s on two GPUs
    row = pretrain_row(cost_by_run([pretrain], records))
    assert (row["seconds"], row["attempts"], row["images/s"]) == ("52.4", "3", "100")


def test_a_run_without_a_log_has_its_recorded_seconds(pretrain):
    (pretrain.folder / "log.jsonl").unlink()
    assert _record_with_total_seconds(pretrain)["seconds"] == 1.9


def test_an_attempt_that_resumed_after_the_last_step_has_no_speed(pretrain):
    record = _record_with_total_seconds(pretrain) | {"results": {"images_per_s": 0.0, "data_wait": 0.0}}
    by_run, by_stage = (table([pretrain], {pretrain.key: record}) for table in (cost_by_run, cost_by_stage))
    assert (pretrain_row(by_run)["images/s"], pretrain_row(by_run)["data wait"]) == ("", "")
    assert (pretrain_row(by_stage)["images/s"], pretrain_row(by_stage)["data wait"]) == ("-", "-")

"""The cost tables of a report."""

from __future__ import annotations

import json

import pytest

from mem.config import Study
from mem.report.cost import cost_by_run, cost_by_stage, format_duration
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


def test_the_time_includes_every_attempt(pretrain):
    records = {pretrain.key: _record_with_total_seconds(pretrain)}
    row = pretrain_row(cost_by_stage([pretrain], records))
    assert (row["time"], row["GPU time"], row["restarts"]) == ("52.4 s", "104.8 s", "2")  # two GPUs
    row = pretrain_row(cost_by_run([pretrain], records))
    assert (row["time"], row["attempts"], row["images/s"]) == ("52.4 s", "3", "100")


def test_a_run_without_a_log_has_its_recorded_seconds(pretrain):
    (pretrain.folder / "log.jsonl").unlink()
    assert _record_with_total_seconds(pretrain)["seconds"] == 1.9


def test_an_attempt_that_resumed_after_the_last_step_has_no_speed(pretrain):
    record = _record_with_total_seconds(pretrain) | {"results": {"images_per_s": 0.0, "data_wait": 0.0}}
    by_run, by_stage = (table([pretrain], {pretrain.key: record}) for table in (cost_by_run, cost_by_stage))
    assert (pretrain_row(by_run)["images/s"], pretrain_row(by_run)["data wait"]) == ("", "")
    assert (pretrain_row(by_stage)["images/s"], pretrain_row(by_stage)["data wait"]) == ("-", "-")


def test_each_finetuning_has_its_own_cost_and_its_time_relative_to_finetune(tmp_path, mini_values):
    mini_values |= {"finetune_variants": {"short": {"epochs": 3}}, "seeds": [0, 1]}
    mini_values["heads"] |= {"ce_short": {"method": "ce", "finetuning": "short"}}
    study = Study.model_validate(mini_values)
    runs = write_runs(tmp_path, study)[:-1]
    records = {run.key: json.loads((tmp_path / run.folder / "run.json").read_text()) for run in runs}
    for run in runs:
        if run.labels.get("finetuning") == "short":
            records[run.key]["seconds"] = 9.0
    header, *lines = cost_by_stage(runs, records)
    table = {line[0]: dict(zip(header, line, strict=True)) for line in lines}
    assert len(table) == len(lines)
    names = [name for name in table if name.startswith(("finetune", "features"))]
    assert names == ["finetune", "finetune short", "features", "features short"]
    assert [table[name]["time / finetune"] for name in names] == ["1.00", "0.25", "-", "-"]
    assert [(table[name]["runs"], table[name]["time"]) for name in names[:2]] == [("2", "72.0 s"), ("2", "18.0 s")]


def test_the_numbers_of_trained_parameters_are_those_of_the_runs(tmp_path, mini):
    runs = [run for run in write_runs(tmp_path, mini) if run.stage in ("convert", "finetune", "train_head")]
    records = {run.key: json.loads((tmp_path / run.folder / "run.json").read_text()) for run in runs}
    for i, run in enumerate(runs):
        parameters = {"finetune": {"parameters": 25_028_904}, "train_head": {"parameters": 1000 * (i + 1)}}
        records[run.key]["results"] = parameters.get(run.stage, {})
    header, *lines = cost_by_stage(runs, records)
    shown = {line[0]: dict(zip(header, line, strict=True))["trained parameters"] for line in lines}
    heads = [index + 1 for index, run in enumerate(runs) if run.stage == "train_head"]
    assert shown == {
        "convert": "-",
        "finetune": "25 M",
        "train_head": f"{heads[0] / 1e3:.3g} to {heads[-1] / 1e3:.3g} M",
    }


def test_a_study_with_one_finetuning_has_no_column_for_relative_times(pretrain):
    assert "time / finetune" not in cost_by_stage([pretrain], {pretrain.key: _record_with_total_seconds(pretrain)})[0]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.42, "0.4 s"), (119.0, "119.0 s"), (840.0, "14 min"), (11160.0, "3.1 h"), (3.6e6, "1,000 h")],
)
def test_a_duration_has_a_unit_that_suits_it(seconds, text):
    assert format_duration(seconds) == text

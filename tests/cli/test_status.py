"""`mem status`: the states of the runs of a study, what failed and why, and the time left."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import time
from pathlib import Path

import pytest
from snakemake.cli import parse_config

from mem.cli.main import main
from mem.config.load import load_study, study_files
from mem.jobs.job import EXIT_USER_ERROR
from mem.progress import RECORD_FILE
from mem.projects.last_start import read_last_start, write_last_start
from mem.projects.run import snakemake_command
from mem.projects.run_states import RunState, run_state
from mem.projects.time_left import time_left
from mem.runs.dag import Run, study_runs
from mem.runs.folder import RunFolder
from mem.runs.outputs import output_files
from mem.runs.working_folder import LOCK_FILE
from mem.tracking.log import JsonLines
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
NOW = 1_000_000.0


@pytest.fixture
def runs(tmp_path, monkeypatch) -> list[Run]:
    """The runs of the mini study, in an empty current folder."""
    monkeypatch.chdir(tmp_path)
    return study_runs(load_study([MINI]))


def stage(runs: list[Run], name: str) -> Run:
    return next(run for run in runs if run.stage == name)


def finish(run: Run, seconds: float, ended: float = NOW) -> None:
    folder = RunFolder(run.folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    for name in output_files(run.stage, run.settings, run.inputs) or ():
        (folder.path / name).touch()
    folder.record.write_text(json.dumps({"seconds": seconds, "attempt_seconds": seconds}))
    os.utime(folder.record, (ended, ended))


def write_log(run: Run, *events: dict) -> None:
    """Write the log of a run. Times are in seconds before NOW."""
    folder = RunFolder(run.folder)
    folder.path.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({**event, "time": NOW - event["time"]}) for event in events]
    folder.log.write_text("".join(f"{line}\n" for line in lines))


@pytest.fixture
def lock():
    """Function that locks the folder of a run, as its stage does."""
    files = []

    def locked(run: Run) -> None:
        file = open(RunFolder(run.folder).lock, "w")
        fcntl.flock(file, fcntl.LOCK_EX)
        files.append(file)

    yield locked
    for file in files:
        file.close()


START = {"event": "start", "time": 100}
TRAINING = {"event": "training", "steps": 1000, "time": 100}


def metrics(step: int, time: float, name: str = "train/loss") -> dict:
    return {"event": "metrics", "step": step, "time": time, "metrics": {name: 0.5}}


def test_a_run_is_waiting_until_it_writes_its_log(runs):
    assert run_state(stage(runs, "pretrain"), NOW).state == "waiting"


def test_a_finished_run_is_done_until_an_output_is_deleted(runs):
    run = stage(runs, "pretrain")
    finish(run, 30.0)
    assert run_state(run, NOW) == RunState(run, "done", 30.0, NOW)
    (run.folder / "encoder.safetensors").unlink()
    state = run_state(run, NOW)
    assert (state.state, state.reason) == ("waiting", f"{run.folder}/encoder.safetensors was deleted")


def test_training_is_extrapolated_from_the_steps_of_its_last_attempt(runs, lock):
    run = stage(runs, "pretrain")
    resumed = {"event": "resumed", "step": 400, "time": 100}
    write_log(run, {**START, "time": 900}, {**TRAINING, "time": 900}, START, TRAINING, resumed, metrics(600, 20))
    lock(run)
    state = run_state(run, NOW)
    assert (state.state, state.share, state.seconds) == ("running", 0.6, 100)
    assert state.seconds_left == pytest.approx(400 * 80 / 200 - 20)


def test_system_metrics_are_no_progress(runs, lock):
    run = stage(runs, "pretrain")
    write_log(run, START, TRAINING, metrics(100, 50), metrics(900, 1, "system/cpu"))
    lock(run)
    assert run_state(run, NOW).share == 0.1


def test_stages_without_steps_record_their_progress(runs, lock):
    run = stage(runs, "features")
    write_log(run, START)
    lock(run)
    assert run_state(run, NOW).seconds_left is None
    record = {"time": NOW - 10, "done": 30, "total": 120, "rate": 1.5}
    (run.folder / RECORD_FILE).write_text(json.dumps(record))
    state = run_state(run, NOW)
    assert (state.share, state.seconds_left) == (0.25, 50.0)
    (run.folder / RECORD_FILE).write_text(json.dumps({**record, "time": NOW - 500}))
    assert run_state(run, NOW).share is None, "the record is of an earlier attempt"


def test_a_failed_run_has_a_reason(runs):
    run = stage(runs, "finetune")
    write_log(run, START, {"event": "end", "status": "failed", "reason": "UserError: disk full", "time": 1})
    state = run_state(run, NOW)
    assert (state.state, state.reason) == ("failed", "UserError: disk full")
    assert state.log == Path("logs", *run.folder.parts[1:]).with_name(f"{run.folder.name}.log")


def test_a_run_that_fails_before_it_has_a_log_is_failed(runs):
    run = stage(runs, "finetune")
    path = run_state(run, NOW).log
    path.parent.mkdir(parents=True)
    path.write_text("Reading.\nmem finetune: config.yaml: no such file\n\n")
    assert run_state(run, NOW).reason == "mem finetune: config.yaml: no such file"


def test_a_run_whose_process_was_killed_is_interrupted(runs):
    run = stage(runs, "pretrain")
    write_log(run, START, TRAINING, metrics(500, 50))
    RunFolder(run.folder).lock.touch()
    state = run_state(run, NOW)
    assert (state.state, state.share) == ("interrupted", 0.5)
    assert state.seconds_left == pytest.approx(50.0)
    assert "because it was killed" in state.reason
    write_log(run, START, {"event": "end", "status": "stopped", "reason": "SIGINT", "time": 1})
    assert run_state(run, NOW).reason == "SIGINT"


def states(runs: list[Run], **seconds: float) -> list[RunState]:
    return [
        RunState(run, "done", seconds[run.stage], NOW) if run.stage in seconds else RunState(run, "waiting")
        for run in runs
    ]


def test_the_time_left_uses_finished_runs_of_the_same_stage(runs):
    given = states(runs, convert=5.0, pretrain=60.0)
    left = time_left(given, lambda stage: 1, 2, NOW)
    assert left.seconds == 0
    assert left.unknown_stages == ("finetune", "features", "train_head", "evaluate", "report")
    heads = [run for run in runs if run.stage == "train_head"]
    given = [RunState(run, "done", 10.0, NOW) if run is heads[0] else RunState(run, "waiting") for run in heads]
    assert time_left(given, lambda stage: 1, 1, NOW).seconds == 10.0 * (len(heads) - 1)
    assert time_left(given, lambda stage: 2, 2, NOW).seconds == 10.0 * (len(heads) - 1), "each uses both cores"
    assert time_left(given, lambda stage: 1, None, NOW).seconds < 10.0 * (len(heads) - 1), "SLURM has no limit"


def test_the_time_between_jobs_is_part_of_the_time_left(runs):
    heads = [run for run in runs if run.stage == "train_head"]
    ends = iter(range(20, 1000, 20))
    given = [
        RunState(run, "done", 10.0, NOW + next(ends)) if i < 4 else RunState(run, "waiting")
        for i, run in enumerate(heads)
    ]
    assert time_left(given, lambda stage: 1, 1, NOW).seconds == pytest.approx(2 * 10.0 * (len(heads) - 4))


def status(*arguments: str) -> int:
    return main(["status", *arguments])


def test_the_output_names_states_failures_and_the_next_command(runs, capsys, lock):
    finish(stage(runs, "convert"), 5.0)
    pretrain = stage(runs, "pretrain")
    pretrain.folder.mkdir(parents=True)
    with JsonLines(RunFolder(pretrain.folder).log) as log:
        log.event("start", stage="pretrain")
        log.event("end", status="failed", reason="UserError: the loss is\nnot finite")
    assert status(str(MINI)) == 0
    out = capsys.readouterr().out
    assert f"1 of {len({run.key for run in runs})} runs are done" in out
    assert "stage       runs  done  running  waiting  failed  time per run" in out
    assert "convert        1     1        -        -       -          0:05" in out
    assert (
        f"  pretrain order 0 seed 0: UserError: the loss is not finite\n    log: logs/{pretrain.folder}.log"[:60] in out
    )
    assert f"To start or resume the study: mem run {MINI}" in out


def test_without_a_name_the_study_is_the_one_started_last(runs, capsys, tmp_path):
    assert status() == EXIT_USER_ERROR
    assert "No study was started in this folder, and config contains no studies" in capsys.readouterr().err
    write_last_start([MINI], {"study": "changed", "seeds": [0, 1]}, 2)
    assert status() == 0
    out = capsys.readouterr().out
    assert f"Study changed ({MINI})" in out
    assert "pretrain       2 " in out, "the overrides of the start apply"
    with open(LOCK_FILE, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write("process 7 on node1")
        file.flush()
        status()
    out = capsys.readouterr().out
    assert "Workflow: process 7 on node1." in out
    assert "Time left: unknown until a run of these stages has finished: convert, pretrain," in out
    assert "To start or resume" not in out


def test_the_next_command_repeats_the_settings_of_the_last_start(runs, capsys, tmp_path):
    """Without them, the command would start other runs."""
    over = tmp_path / "over.yaml"
    over.write_text("seeds: [0, 1]\n")
    write_last_start([MINI, over], {"shots": {"many_above": 90}, "pretrain": None}, 2)
    assert status() == 0
    command = capsys.readouterr().out.split("To start or resume the study: ")[1]
    _, _, *words = shlex.split(command)
    given = snakemake_command(words[0], words[1:], {})
    config = parse_config(given[given.index("--config") + 1 :])
    files, overrides = study_files(config, [Path(words[words.index("--configfile") + 1])], REPOSITORY / "config")
    found = {run.key for run in study_runs(load_study(files, overrides))}
    assert found == {
        run.key for run in study_runs(load_study([MINI, over], {"shots": {"many_above": 90}, "pretrain": None}))
    }


def test_relative_paths_in_a_study_start_at_the_working_folder(runs, capsys, tmp_path):
    """The digest of a list of class names is part of the keys."""
    work, study = tmp_path / "work", tmp_path / "named.yaml"
    work.mkdir()
    (work / "names.txt").write_text("".join(f"{name}\n" for name in range(10)))
    study.write_text(f"extends: {MINI}\ndataset: {{class_names: names.txt}}\n")
    with contextlib.chdir(work):
        finish(stage(study_runs(load_study([study])), "convert"), 5.0)
    for arguments in (["named.yaml"], [str(study)]):
        assert status(*arguments, "--directory", "work") == 0
        assert "convert        1     1 " in capsys.readouterr().out
    assert status("--directory", "missing") == EXIT_USER_ERROR
    assert "missing: no such folder" in capsys.readouterr().err


def test_the_only_study_of_a_project_needs_no_name(runs, capsys, tmp_path):
    (tmp_path / "config").mkdir()
    (tmp_path / "config/small.yaml").write_text(MINI.read_text())
    assert status() == 0
    assert "Study mini (config/small.yaml)" in capsys.readouterr().out
    (tmp_path / "config/other.yaml").write_text(MINI.read_text())
    assert status() == EXIT_USER_ERROR
    assert "config contains several studies: other, small" in capsys.readouterr().err


def test_the_record_of_the_last_start_can_be_damaged(tmp_path):
    write_last_start([MINI], {}, None, tmp_path)
    found = read_last_start(tmp_path)
    assert found is not None
    assert (found.study_files, found.cores) == ((MINI,), None)
    assert abs(found.time - time.time()) < 60
    (tmp_path / ".snakemake/mem-study.json").write_text("{")
    assert read_last_start(tmp_path) is None

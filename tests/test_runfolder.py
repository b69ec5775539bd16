"""Run folders: locks and configurations."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from mem.config import Study
from mem.errors import UserError
from mem.runs.dag import study_runs
from mem.runs.folder import RunFolder, read_config, read_record, write_configs

HOLDER = """
import sys, time
from pathlib import Path
from mem.runs.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked(0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_folder_in_use_is_refused_with_the_name_of_who_uses_it(tmp_path, holder):
    pattern = re.escape(f"{tmp_path} is in use by process {holder.pid} on ")
    with pytest.raises(UserError, match=pattern), RunFolder(tmp_path).locked(0.3, say=lambda text: None):
        pass


def test_the_lock_goes_with_the_process_even_when_it_is_killed(tmp_path, holder):
    holder.kill()
    holder.wait()
    with RunFolder(tmp_path).locked(0):
        pass


def test_a_stage_waits_for_a_dying_one(tmp_path, holder):
    said: list[str] = []
    began = time.monotonic()
    with (
        subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {holder.pid}"]),
        RunFolder(tmp_path).locked(30, say=said.append),
    ):
        assert time.monotonic() - began < 20
    assert said == [said[0]]
    assert f"Waiting for process {holder.pid}" in said[0]


def test_a_file_system_without_locks_is_said_and_not_fatal(tmp_path, monkeypatch):
    def refuse(*_: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", refuse)
    said: list[str] = []
    with RunFolder(tmp_path).locked(0, say=said.append):
        pass
    assert said == [f"{tmp_path}: this file system keeps no locks; start no second stage in this folder."]


@pytest.fixture
def config_file(tmp_path, mini) -> Path:
    runs = study_runs(mini)
    write_configs(runs, mini, tmp_path)
    return tmp_path / next(run.folder for run in runs if run.stage == "pretrain") / "config.yaml"


def rewritten(path: Path, **changes) -> None:
    content = yaml.safe_load(path.read_text())
    content.update(changes)
    path.write_text(yaml.safe_dump(content))


def test_a_configuration_changed_by_hand_is_refused(config_file):
    content = yaml.safe_load(config_file.read_text())
    content["settings"]["pretrain"]["epochs"] = 999
    config_file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="was changed by hand"):
        read_config(config_file, "pretrain")


def test_a_configuration_of_another_stage_is_refused(config_file):
    with pytest.raises(UserError, match="is the configuration of a pretrain run, not of finetune"):
        read_config(config_file, "finetune")


def test_a_configuration_of_another_version_is_refused(config_file):
    rewritten(config_file, version=0)
    with pytest.raises(UserError, match="was written for version 0 of pretrain, this is version"):
        read_config(config_file, "pretrain")


def test_a_study_is_no_run_configuration(config_file):
    config_file.write_text("study: x\n")
    with pytest.raises(UserError, match=r"no run configuration\. `mem runs STUDY --write`"):
        read_config(config_file, "pretrain")


def test_a_missing_configuration_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no such file\. Snakemake writes it"):
        read_config(tmp_path / "config.yaml", "pretrain")


def test_the_title_says_the_run_in_words(config_file):
    assert read_config(config_file, "pretrain").title == "pretrain mini_digits vit_mini order 0 seed 0"


def test_an_unfinished_run_has_no_record(tmp_path):
    with pytest.raises(UserError, match="this run is not finished"):
        read_record(tmp_path)


def test_a_run_that_another_study_calls_otherwise_keeps_its_configuration(tmp_path, mini_values):
    crt = {"method": "crt", **mini_values["heads"]["crt"]}
    written: dict[str, tuple[int, str]] = {}
    for name in ("crt", "again"):
        study = Study.model_validate({**mini_values, "heads": {name: crt}})
        (run,) = [run for run in study_runs(study) if run.stage == "train_head"]
        assert run.labels["variant"] == name
        write_configs(study_runs(study), study, tmp_path)
        path = tmp_path / run.folder / "config.yaml"
        written[name] = (path.stat().st_mtime_ns, yaml.safe_load(path.read_text())["labels"]["variant"])
    # A newer file would make Snakemake train the head again.
    assert written["again"] == written["crt"]
    assert written["crt"][1] == "crt"

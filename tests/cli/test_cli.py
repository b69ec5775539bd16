"""The `mem` command: help, checks, lists and invalid arguments."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys

import pytest

from mem.cli.main import main
from mem.cli.stages import STAGE_HELP, STAGE_INPUTS
from mem.config import Pretrain
from mem.config.load import load_study
from mem.runs.dag import STAGES, study_runs
from tests.conftest import REPOSITORY
from tests.stages.running import ADAPTED

MINI = REPOSITORY / "tests" / "mini.yaml"


def test_help_names_every_stage(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--help"])
    assert ended.value.code == 0
    out = capsys.readouterr().out
    assert all(stage in out for stage in STAGES)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_explains_its_options(capsys, stage):
    with pytest.raises(SystemExit):
        main([stage, "--help"])
    out = capsys.readouterr().out
    for option in ("--config", "--out", "--log", *(f"--{name}" for name in STAGE_INPUTS[stage])):
        assert option in out


def test_each_stage_has_an_option_for_each_input_of_its_runs():
    training = {
        "epochs": 1, "global_batch": 32, "optimizer": "sgd", "lr": 0.1, "weight_decay": 0.0, "sampler": "instance"
    }  # fmt: skip
    unfinetuned = {"finetune": None, "heads": {"ce": {"training": training}}}
    online = {"features": {"online": True}}
    selection = {"selection": {"holdout": {"share": 0.2, "seed": 0}}, "dataset": {"cut": {"val_per_class": 0}}}
    crops = {"evaluate": {"crops": {"number": 5, "resize": 10}}}
    found: dict[str, set[str]] = {}
    for changes in ({}, unfinetuned, online, unfinetuned | online, selection, unfinetuned | selection, ADAPTED, crops):
        for run in study_runs(load_study([MINI], changes)):
            found.setdefault(run.stage, set()).update(run.inputs)
    for stage, names in STAGE_INPUTS.items():
        assert set(names) == (set() if stage == "report" else found[stage])
    assert tuple(STAGE_HELP) == STAGES


def test_config_check_accepts_a_valid_study(capsys):
    assert main(["config", "--check", str(MINI)]) == 0
    assert "study mini is valid. Its runs: 1 convert, 1 pretrain, 1 finetune, 1 features, 6 train_head" in (
        capsys.readouterr().out
    )


@pytest.mark.stage
def test_an_invalid_study_exits_with_status_2_and_no_traceback(tmp_path):
    path = tmp_path / "study.yaml"
    path.write_text(MINI.read_text().replace("mask_ratio: 0.5", "mask_ration: 0.5"))
    done = subprocess.run(
        [sys.executable, "-m", "mem.cli", "config", "--check", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    line = next(i for i, text in enumerate(path.read_text().splitlines(), 1) if "mask_ration" in text)
    assert f"{path}:{line}: unknown key `pretrain.mask_ration`; did you mean `mask_ratio`?" in done.stderr
    meaning = " ".join(str(Pretrain.model_fields["mask_ratio"].description).split())
    assert f"`pretrain.mask_ratio` is missing: {meaning}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("number", "message"),
    [(errno.ENOSPC, "the disk is full."), (errno.EACCES, "no permission to write.")],
    ids=["full disk", "permission"],
)
def test_a_problem_of_the_file_system_is_a_message(number, message, tmp_path, capsys, monkeypatch):
    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path / "file"))

    monkeypatch.setattr("mem.runs.run_config.write_configs", fail)
    assert main(["runs", "--write", str(MINI)]) == 2
    assert f"mem: {tmp_path}/file: {message}" in capsys.readouterr().err


def test_a_fault_of_the_code_keeps_its_traceback(monkeypatch):
    def fail(*_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), "file")

    monkeypatch.setattr("mem.runs.run_config.write_configs", fail)
    with pytest.raises(FileNotFoundError):
        main(["runs", "--write", str(MINI)])


def test_the_schema_is_printed_as_json(capsys):
    assert main(["config", "--schema"]) == 0
    assert "heads" in json.loads(capsys.readouterr().out)["properties"]


def test_a_finished_run_that_lacks_a_file_is_listed_as_incomplete(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = next(run for run in study_runs(load_study([MINI])) if run.stage == "pretrain")
    run.folder.mkdir(parents=True)
    (run.folder / "run.json").touch()
    (run.folder / "encoder.safetensors").touch()
    assert main(["runs", str(MINI)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if run.key in line]
    assert "incomplete: autoencoder.safetensors missing" in line
    assert "done" not in line
    (run.folder / "autoencoder.safetensors").touch()
    assert main(["runs", str(MINI)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if run.key in line]
    assert line.split()[2] == "done"


def test_the_runs_of_a_study_are_listed(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["runs", str(MINI)]) == 0
    lines = capsys.readouterr().out.splitlines()
    runs = study_runs(load_study([MINI]))
    assert len(lines) == len(runs)
    assert all(run.key in line and str(run.folder) in line for run, line in zip(runs, lines, strict=True))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.stage
def test_light_commands_do_not_import_torch(tmp_path):
    code = (
        "import sys; from mem.cli.main import main; "
        f"main(['runs', {str(MINI)!r}]); main(['config', '--check', {str(MINI)!r}]); "
        "sys.exit('torch' in sys.modules or 'mlflow' in sys.modules or 'ffcv' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.DEVNULL, check=False).returncode
        == 0
    )


@pytest.mark.stage
def test_a_closed_pipe_is_not_an_error(tmp_path):
    command = f"{sys.executable} -m mem.cli config --schema | head -1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "{\n"
    assert "Traceback" not in done.stderr

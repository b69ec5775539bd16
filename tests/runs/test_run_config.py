"""Run configurations: writing, reading, and invalid files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from mem.config import Study
from mem.config.load import load_study
from mem.errors import UserError
from mem.runs.dag import study_runs
from mem.runs.keys import digest
from mem.runs.run_config import read_config, write_configs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"


def test_a_written_configuration_is_read_back(tmp_path, mini):
    runs = study_runs(mini)
    write_configs(runs, mini, tmp_path)
    for run in runs:
        config = read_config(tmp_path / run.folder / "config.yaml", run.stage)
        assert (config.key, config.seed, dict(config.labels)) == (run.key, run.seed, dict(run.labels))
    pretrain = next(run for run in runs if run.stage == "pretrain")
    assert read_config(tmp_path / pretrain.folder, "pretrain").compute.checkpoint_minutes == 0.01


def test_configurations_are_not_flushed_to_disk_one_by_one(tmp_path, mini, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: pytest.fail("a configuration is flushed to disk"))
    write_configs(study_runs(mini), mini, tmp_path)
    (tmp_path / study_runs(mini)[0].folder / "config.yaml").write_text("")  # after a power failure
    write_configs(study_runs(mini), mini, tmp_path)
    assert read_config(tmp_path / study_runs(mini)[0].folder, "convert").key == study_runs(mini)[0].key


def test_an_unchanged_configuration_is_not_rewritten(tmp_path, mini):
    runs = study_runs(mini)
    write_configs(runs, mini, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")}
    write_configs(runs, mini, tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.yaml")} == before


def test_a_default_value_is_recorded_but_is_not_part_of_the_key(tmp_path, mini):
    explicit = load_study([MINI], {"dataset": {"jpeg_quality": 90}, "shots": {"many_above": 100, "few_below": 20}})
    assert [run.key for run in study_runs(explicit)] == [run.key for run in study_runs(mini)]
    document = study_runs(mini)[0].document()
    assert "jpeg_quality" not in document["settings"]["dataset"]
    assert document["defaults"]["dataset"]["jpeg_quality"] == 90
    write_configs(study_runs(mini), mini, tmp_path)
    config = read_config(tmp_path / study_runs(mini)[0].folder, "convert")
    assert config.settings["dataset"]["jpeg_quality"] == 90


def test_a_setting_that_was_added_later_does_not_rewrite_a_configuration(tmp_path, mini):
    run = study_runs(mini)[0]
    write_configs([run], mini, tmp_path)
    path = tmp_path / run.folder / "config.yaml"
    without_setting = path.read_text().replace("    jpeg_quality: 90\n", "")
    assert without_setting != path.read_text()
    path.write_text(without_setting)
    write_configs([run], mini, tmp_path)
    assert path.read_text() == without_setting


@pytest.mark.parametrize(
    ("stage", "finished", "rewritten"),
    [("convert", False, True), ("convert", True, False), ("report", False, True), ("report", True, True)],
)
def test_a_default_with_another_value_applies_to_unfinished_runs_and_reports(
    tmp_path, mini, stage, finished, rewritten
):
    run = next(run for run in study_runs(mini) if run.stage == stage)
    write_configs([run], mini, tmp_path)
    path = tmp_path / run.folder / "config.yaml"
    written_now = path.read_text()
    earlier = written_now.replace("unreadable: fail", "unreadable: skip")
    assert earlier != written_now
    path.write_text(earlier)
    if finished:
        (path.parent / "run.json").write_text("{}")
    write_configs([run], mini, tmp_path)
    assert path.read_text() == (written_now if rewritten else earlier)


@pytest.fixture
def config_file(tmp_path, mini) -> Path:
    runs = study_runs(mini)
    write_configs(runs, mini, tmp_path)
    return tmp_path / next(run.folder for run in runs if run.stage == "pretrain") / "config.yaml"


def change_file(path: Path, **changes) -> None:
    content = yaml.safe_load(path.read_text())
    content.update(changes)
    path.write_text(yaml.safe_dump(content))


def test_an_edited_configuration_is_reported(config_file):
    content = yaml.safe_load(config_file.read_text())
    content["settings"]["pretrain"]["epochs"] = 999
    config_file.write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="the file was edited"):
        read_config(config_file, "pretrain")


def test_a_configuration_of_another_stage_is_reported(config_file):
    with pytest.raises(UserError, match="expected the configuration of a finetune run, found that of a pretrain run"):
        read_config(config_file, "finetune")


def test_a_configuration_of_another_version_is_reported(config_file):
    change_file(config_file, version=0)
    with pytest.raises(UserError, match="written for version 0 of pretrain, but this is version"):
        read_config(config_file, "pretrain")


def test_a_selecting_head_of_the_previous_selection_rule_is_reported(tmp_path):
    runs = study_runs(load_study([REPOSITORY / "tests" / "mini.yaml"]))
    run = next(run for run in runs if run.stage == "train_head" and run.labels["variant"] == "tau")
    content = run.document()
    assert content["version"] == 2
    content |= {"version": 1}
    content["key"] = digest(
        {name: content[name] for name in ("stage", "version", "seed", "settings")}
        | {"inputs": {name: folder.rsplit("-", 1)[1] for name, folder in content["inputs"].items()}}
    )
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(UserError, match="written for version 1 of train_head, but this is version 2"):
        read_config(tmp_path / "config.yaml", "train_head")


def test_a_study_is_not_a_run_configuration(config_file):
    config_file.write_text("study: x\n")
    with pytest.raises(UserError, match=r"not the configuration of a run\. `mem runs STUDY --write`"):
        read_config(config_file, "pretrain")


def test_a_missing_configuration_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"no such file\. Snakemake and `mem runs STUDY --write` create it"):
        read_config(tmp_path / "config.yaml", "pretrain")


def test_the_title_describes_the_run(config_file):
    assert read_config(config_file, "pretrain").title == "pretrain mini_digits vit_mini order 0 seed 0"


def test_a_run_with_another_name_in_another_study_keeps_its_configuration(tmp_path, mini_values):
    crt = {"method": "crt", **mini_values["heads"]["crt"]}
    written: dict[str, tuple[int, str]] = {}
    for name in ("crt", "again"):
        study = Study.model_validate({**mini_values, "heads": {name: crt}})
        (run,) = [run for run in study_runs(study) if run.stage == "train_head"]
        assert run.labels["variant"] == name
        write_configs(study_runs(study), study, tmp_path)
        path = tmp_path / run.folder / "config.yaml"
        written[name] = (path.stat().st_mtime_ns, yaml.safe_load(path.read_text())["labels"]["variant"])
    # If the file were newer, Snakemake would train the head again.
    assert written["again"] == written["crt"]
    assert written["crt"][1] == "crt"

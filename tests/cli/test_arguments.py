"""The arguments STUDY and RUN: all forms that commands accept, and the messages about those that lead to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from mem.cli.arguments import name_of_study, study_files
from mem.cli.main import main
from mem.config.load import load_study
from mem.config.study_names import find_study, study_folders
from mem.errors import UserError
from mem.installation import packaged_studies
from mem.runs.dag import Run, study_runs
from mem.runs.find import existing_or_run, find_run
from mem.runs.run_config import write_configs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
SELECTION = {"selection": {"holdout": {"share": 0.2, "seed": 0}}, "dataset": {"cut": {"val_per_class": 0}}}


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with its own studies: a copy of the mini study, and one in a subfolder that extends it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config/mine").mkdir(parents=True)
    (tmp_path / "config/small.yaml").write_text(MINI.read_text())
    (tmp_path / "config/mine/other.yaml").write_text("extends: ../small.yaml\nstudy: another\nseeds: [0, 1]\n")
    return tmp_path


def planned(root: Path, changes: dict | None = None) -> list[Run]:
    """Write the configurations of the mini study's runs, and return its runs."""
    study = load_study([MINI], changes or {})
    runs = study_runs(study)
    write_configs(runs, study, root)
    return runs


def head(runs: list[Run], variant: str, **labels: str) -> Run:
    return next(
        run for run in runs if run.stage == "train_head" and {**run.labels, "variant": variant, **labels} == run.labels
    )


def test_a_study_is_found_by_path_and_by_name(folder):
    assert find_study("small") == Path("config/small.yaml")
    assert find_study("mine/other") == Path("config/mine/other.yaml")
    assert find_study("config/small.yaml") == Path("config/small.yaml")
    assert find_study("digits_lt") == packaged_studies() / "digits_lt.yaml"
    (folder / "config/digits_lt.yaml").touch()
    assert find_study("digits_lt") == Path("config/digits_lt.yaml")
    (folder / "small").touch()
    assert find_study("small") == Path("small")
    with pytest.raises(UserError, match=r"config/mine/other.yml: no such file; did you mean the study `mine/other`"):
        find_study("config/mine/other.yml")
    assert find_study("missing.yaml") == Path("missing.yaml"), "load_study explains it"


def test_names_and_paths_are_relative_to_the_current_folder_in_the_repository(monkeypatch):
    monkeypatch.chdir(REPOSITORY)
    assert study_folders() == (Path("config"),)
    assert find_study("digits_lt") == Path("config/digits_lt.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "smal",
            r"smal: no such study; did you mean `small`\? Expected the path of a YAML file, or the name of one in ",
        ),
        ("other", r"did you mean `mine/other`\?"),
        ("config", "config: this is a folder"),
        ("", r"\(empty text\): no such study"),
        ("../config/small", "no such study"),
        ("/small", "no such study"),
        ("x" * 5000, "no such study"),
        ("*", "no such study"),
    ],
    ids=["typing error", "subfolder", "folder", "empty", "upwards", "absolute", "too long", "pattern"],
)
def test_a_study_that_does_not_exist_is_reported(folder, name, message):
    with pytest.raises(UserError, match=message):
        find_study(name)


def test_files_that_follow_a_study_override_it_and_a_second_study_is_refused(folder):
    Path("changes.yaml").write_text("seeds: [5]\n")
    assert load_study(study_files(["small", "changes.yaml"])).seeds == (5,)
    with pytest.raises(UserError, match=r"small: expected a single study, but digits_lt is one already"):
        study_files(["digits_lt", "small"])


def test_results_are_found_by_the_name_of_the_study_and_by_its_file(folder):
    assert name_of_study("mine/other", folder) == "another"
    assert name_of_study("config/mine/other.yaml", folder) == "another"
    assert name_of_study("small", folder) == "mini"
    (folder / "results/small").mkdir(parents=True)
    assert name_of_study("small", folder) == "small", "it has results"
    assert name_of_study("removed", folder) == "removed", "the command reports that it has no results"
    with pytest.raises(UserError, match="no such study"):
        name_of_study("mine/removed", folder)


@pytest.mark.parametrize("command", ["config --check", "runs"])
def test_commands_accept_the_name_of_a_study(folder, capsys, command):
    assert main([*command.split(), "small"]) == 0
    assert capsys.readouterr().out
    assert main([*command.split(), "smal"]) == 2
    assert "did you mean `small`?" in capsys.readouterr().err


def test_a_run_is_found_by_folder_key_prefix_and_name_of_its_head(folder):
    run = head(planned(folder), "lws")
    for name in (str(run.folder), run.key, run.key[:8], "lws", "small:lws", "config/small.yaml:lws"):
        assert find_run(name, folder) == run.folder
        assert existing_or_run(name, folder) == run.folder


def test_a_name_means_the_head_that_is_trained_on_all_training_images(folder):
    runs = planned(folder, SELECTION)
    assert find_run("crt", folder) == head(runs, "crt", branch="refit").folder


def test_a_name_of_several_runs_is_reported_with_all_of_them(folder):
    runs = planned(folder)
    other = planned(folder, {"seeds": [1]})
    with pytest.raises(UserError, match="2 runs match") as error:
        find_run("crt", folder)
    for run, seed in ((head(runs, "crt"), 0), (head(other, "crt"), 1)):
        assert f"{run.folder}  order 0, seed {seed}, method crt, variant crt" in str(error.value)
    assert find_run("small:crt", folder) == head(runs, "crt").folder
    with pytest.raises(UserError, match=r"study another trains this head 2 times. Specify one run by its key"):
        find_run("mine/other:crt", folder)


def test_a_name_that_is_also_the_beginning_of_a_key_is_ambiguous(folder):
    run = head(planned(folder), "ce")
    twin = run.folder.with_name("features-ce0000000000")
    (folder / twin).mkdir()
    (folder / twin / "config.yaml").touch()
    with pytest.raises(UserError, match="2 runs match") as error:
        find_run("ce", folder)
    assert str(run.folder) in str(error.value) and str(twin) in str(error.value)
    assert find_run("ce0", folder) == twin


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", r"\(empty text\): not a run folder"),
        ("men", "not the name of a head there; did you mean `mem`\\?"),
        ("small:", r"study mini has no head \(empty text\). Its heads: ce, tau, crt"),
        ("small:cert", r"study mini has no head cert. Its heads: ce, tau, crt"),
        ("smal:crt", r"did you mean `small`\?"),
        (":crt", "not a run folder"),
        ("small:crt", r"train_head-[0-9a-f]{12} does not exist in .*. Run the study first."),
        ("x" * 5000, "not a run folder"),
        ("..", "not a run folder"),
    ],
)
def test_a_run_that_does_not_exist_is_reported(folder, name, message):
    if name == "men":
        planned(folder)
    with pytest.raises(UserError, match=message):
        find_run(name, folder)


def test_a_folder_without_a_model_does_not_hide_a_head_of_its_name(folder):
    run = head(planned(folder), "mem")
    (folder / "mem").mkdir()
    assert existing_or_run("mem", folder) == run.folder
    (folder / "mem/export.json").touch()
    assert existing_or_run("mem", folder) == Path("mem")
    assert existing_or_run("elsewhere", folder) == Path("elsewhere"), "opening it explains what is missing"

"""`mem run`: the command line of snakemake, and the environment in which it finds this installation of mem."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from snakemake.cli import parse_config

from mem.cli.main import main
from mem.errors import UserError
from mem.projects import run
from mem.projects.run import environment_of_jobs, snakemake_command
from mem.runs.workflow_command import workflow_command
from tests.conftest import REPOSITORY

DIGITS = f"study={REPOSITORY}/config/digits_lt.yaml"
SNAKEFILE = ["--snakefile", str(REPOSITORY / "Snakefile")]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """An empty current folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(*given: str, study: str = "digits_lt", **environment: str) -> list[str]:
    """Return the arguments of snakemake."""
    return snakemake_command(study, given, environment)[1:]


def test_a_study_runs_with_all_cores_by_default():
    assert arguments() == [*SNAKEFILE, "--cores", "all", "--config", DIGITS]


@pytest.mark.parametrize(
    "given",
    [["--cores", "2"], ["-c2"], ["-c", "2"], ["--jobs=4"], ["-j4"], ["--profile", "mine"], ["--executor", "dryrun"]],
)
def test_cores_are_added_only_if_nothing_says_where_jobs_run(given):
    assert arguments(*given) == [*SNAKEFILE, *given, "--config", DIGITS]
    assert "--cores" not in arguments(SNAKEMAKE_PROFILE="mine")


def test_another_snakefile_can_be_given():
    assert "--snakefile" not in arguments("-s", "Other")[2:]
    assert arguments("--snakefile=Other", "-c1") == ["--snakefile=Other", "-c1", "--config", DIGITS]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["-c1", "table2"], ["-c1", "table2", "--config", DIGITS]),
        (["-c1", "--", "table2"], ["-c1", "--config", DIGITS, "--", "table2"]),
        (["-c1", "--config", "a=1", "b=2"], ["-c1", "--config", DIGITS, "a=1", "b=2"]),
        (["-C", "a=1", "-c1", "-n"], ["-C", DIGITS, "a=1", "-c1", "-n"]),
        (["-c1", "--config=a=1"], ["-c1", "--config", DIGITS, "a=1"]),
        (["-c1", "-Ca=1", "b=2"], ["-c1", "-C", DIGITS, "a=1", "b=2"]),
        (["-c1", "--configfile", "a"], ["-c1", "--configfile", "a", "--config", DIGITS]),
        (["-c1", "--", "--config"], ["-c1", "--config", DIGITS, "--", "--config"]),
    ],
)
def test_the_study_is_one_of_the_values_of_config(given, expected):
    assert arguments(*given) == [*SNAKEFILE, *expected]


@pytest.mark.parametrize("name", ["project #1", "a: b", "it's = {x}", '"x"', "données", "a b", "a: b: c"])
def test_the_path_of_a_study_can_have_special_characters(folder, name):
    (folder / name).mkdir()
    (folder / name / "own.yaml").touch()
    given = arguments("-c1", study=f"{name}/own.yaml")
    assert parse_config([given[-1]]) == {"study": str(folder / name / "own.yaml")}


def test_profiles_are_those_of_the_folder_or_the_delivered_ones(folder):
    delivered = str(REPOSITORY / "slurm")
    assert arguments("--profile", "slurm")[2:4] == ["--profile", delivered]
    assert arguments("--profile=slurm")[2] == f"--profile={delivered}"
    assert arguments("--profile", "mine", "slurm")[2:5] == ["--profile", "mine", "slurm"], "slurm is a target here"
    (folder / "slurm").mkdir()
    (folder / "slurm/config.yaml").touch()
    assert arguments("--profile", "slurm")[2:4] == ["--profile", "slurm"]


def test_a_study_of_the_folder_takes_precedence(folder):
    (folder / "config").mkdir()
    (folder / "config/digits_lt.yaml").touch()
    assert arguments("-c1")[-1] == f"study={folder}/config/digits_lt.yaml"
    with pytest.raises(UserError, match="nothing: no such study"):
        arguments(study="nothing")


def test_the_process_is_replaced(monkeypatch):
    command: list[str] = []

    def execute(file: str, words: list[str], environment: dict[str, str]) -> None:
        command.extend([file, *words])
        raise SystemExit

    monkeypatch.setattr(run.os, "execvpe", execute)
    monkeypatch.delenv("SNAKEMAKE_PROFILE", raising=False)
    with pytest.raises(SystemExit):
        main(["run", "digits_lt", "-n", "--config", "seeds=[0,1]"])
    assert command[0] == command[1] == str(Path(sys.executable).with_name("snakemake"))
    assert command[2:] == [*SNAKEFILE, "--cores", "all", "-n", "--config", DIGITS, "seeds=[0,1]"]


def test_jobs_find_the_mem_of_this_installation(tmp_path):
    scripts = str(Path(sys.executable).parent)
    other = tmp_path / "bin"
    other.mkdir()
    (other / "mem").write_text("#!/bin/sh\n")
    (other / "mem").chmod(0o755)
    path = os.pathsep.join([str(other), scripts])
    assert environment_of_jobs({"PATH": path})["PATH"] == os.pathsep.join([scripts, path])
    unchanged = os.pathsep.join([scripts, str(other)])
    assert environment_of_jobs({"PATH": unchanged, "A": "1"}) == {"PATH": unchanged, "A": "1"}


def test_the_printed_command_is_mem_run_except_in_the_repository(monkeypatch):
    assert workflow_command([Path("a b.yaml"), Path("over.yaml")]) == "mem run 'a b.yaml' --configfile over.yaml"
    monkeypatch.chdir(REPOSITORY)
    command = "snakemake --cores 2 --config study=config/digits_lt.yaml"
    assert workflow_command([Path("config/digits_lt.yaml")]) == command

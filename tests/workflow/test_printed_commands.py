"""Commands that mem prints can be run as printed, in the folder in which they were printed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from tests.workflow.conftest import ENVIRONMENT

MINI = REPOSITORY / "tests" / "mini.yaml"


def run(command: str, folder: Path) -> str:
    """Run a command line in a folder, check that it succeeds, and return its output."""
    done = subprocess.run(command, shell=True, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.mark.parametrize("override", [None, "my changes.yaml"])
def test_the_commands_that_the_check_prints_can_be_run(tmp_path, override):
    files = str(MINI)
    if override is not None:
        (tmp_path / override).write_text("study: changed\n")
        files += f" '{override}'"
    last_line = run(f"mem data check {files}", tmp_path).splitlines()[-1]
    show, workflow = last_line.split("`")[1::2]
    name = "mini" if override is None else "changed"
    assert run(show, tmp_path).splitlines()[0] == f"results/{name}/data/histogram.png"
    assert "rule convert:" in run(f"{workflow} --dry-run", tmp_path)


def test_null_removes_a_nested_section_on_the_command_line(tmp_path):
    settings = "'dataset={\"holdout\": null}' pretrain=null"
    command = f"snakemake --snakefile {REPOSITORY}/Snakefile --cores 1 --dry-run --config study={MINI} {settings}"
    output = run(command, tmp_path)
    assert "rule finetune:" in output
    assert "rule pretrain:" not in output

"""Modules that commands import. Importing them takes longer than the rest of a command that has nothing to compute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import REPOSITORY

pytestmark = pytest.mark.stage
LIBRARIES = (
    "PIL", "cv2", "ffcv", "jinja2", "matplotlib", "mlflow", "numba", "pandas", "psutil", "pyarrow", "scipy.stats",
    "sklearn", "snakemake", "sqlalchemy", "timm", "torch", "torchvision",
)  # fmt: skip
"""Modules that no command needs if it has nothing to compute."""
WITHOUT_STUDY = (*LIBRARIES, "jaxtyping", "numpy", "pydantic", "scipy", "yaml")
"""Modules that are not needed without a study either."""
PROGRAM = """
import json, sys
from mem.cli.main import main

unneeded = json.loads(sys.argv[1])
try:
    status = main(sys.argv[2:])
except SystemExit as end:
    status = end.code
print()
print(json.dumps([name for name in unneeded if name in sys.modules]))
sys.exit(status)
"""
DIGITS = "config/digits_lt.yaml"
TIMM = "config/paper/inat18_resnext50.yaml"


def imported(*arguments: str, unneeded: tuple[str, ...] = LIBRARIES, answers: Path | str = "") -> list[str]:
    """Run a command as a process in the repository, and return the modules of `unneeded` that it imported."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(unneeded), *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "MEM_PLAN_CACHE": str(answers)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("command", [["--help"], ["--version"], ["plan", "--help"], ["train_head", "--help"]])
def test_help_imports_only_the_argument_parser(command):
    assert imported(*command, unneeded=WITHOUT_STUDY) == []


@pytest.mark.parametrize(
    "command",
    [
        ["runs", DIGITS],
        ["runs", TIMM],
        ["config", "--check", DIGITS],
        ["config", "--schema"],
        ["data", "check", DIGITS],
        ["weights", "list"],
    ],
    ids=" ".join,
)
def test_commands_for_studies_import_no_large_library(command):
    assert imported(*command) == []


def test_results_imports_no_large_library(tmp_path):
    report = tmp_path / "results" / "fashion_lt" / "report"
    report.mkdir(parents=True)
    shutil.copy(REPOSITORY / "docs" / "results" / "fashion_lt" / "results.csv", report)
    assert imported("results", "fashion_lt", "--directory", str(tmp_path)) == []


@pytest.mark.parametrize("study", [DIGITS, TIMM])
def test_a_second_plan_and_check_import_no_large_library(study, tmp_path):
    plan = ("plan", study, "--core-gflops", "50")
    assert "torch" in imported(*plan, answers=tmp_path)
    assert imported(*plan, answers=tmp_path) == []
    assert imported("config", "--check", study, answers=tmp_path) == []


def test_a_second_plan_of_feature_files_imports_no_large_library(tmp_path):
    study = _feature_study(tmp_path)
    plan = ("plan", str(study), "--core-gflops", "50")
    assert "torch" in imported(*plan, answers=tmp_path / "answers")
    assert imported(*plan, answers=tmp_path / "answers") == []


def _feature_study(folder: Path) -> Path:
    """Write feature files and a study that uses them, and return the path of the study."""
    labels = np.repeat(np.arange(3), 4)
    text = (REPOSITORY / "config" / "own_features.yaml").read_text()
    for split in ("train", "val", "test"):
        np.save(folder / f"{split}.npy", np.zeros((len(labels), 4), np.float32))
        np.save(folder / f"{split}-labels.npy", labels)
    study = folder / "study.yaml"
    study.write_text(text.replace(": features/", f": {folder}/"))
    return study

"""Run `mem` commands and stages of small studies.

A run folder's name contains a hash of the run's settings and inputs, so studies that have a run in common can share its
outputs. During a test session, `run_study` keeps a copy of each finished run and reuses it in other folders.
"""

from __future__ import annotations

import contextlib
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml

from mem.cli.main import main
from mem.config.load import load_study
from mem.distributed import World
from mem.jobs.job import Job
from mem.jobs.signals import StopSignals
from mem.runs.dag import Run, study_runs
from mem.runs.folder import RunFolder
from mem.runs.run_config import read_config, write_configs
from mem.tracking.log import NullLog
from tests.conftest import REPOSITORY

MEM = [sys.executable, "-m", "mem.cli"]
MINI = REPOSITORY / "tests" / "mini.yaml"
MINI_VALUES = yaml.safe_load(MINI.read_text())
ADAPTED = {
    "finetune": {"experts": {"number": 2, "own_from": "blocks.1"}},
    "features": {"tokens": False},
    "adapt": {
        "epochs": 1, "global_batch": 32, "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.0,
        "stop_below": 0.05, "augmentation": {"crop_scale": [0.5, 1.0], "flip": False},
    },
    "heads": {"mem_on_crt": {"input": "pooled"}, "sade": {"method": "sade_aggregation"}},
}  # fmt: skip
"""Changes of the mini study after which it has experts and a run of the stage `adapt`."""
_FINISHED_RUNS = tempfile.TemporaryDirectory(prefix="mem-finished-runs-")


class Output(NamedTuple):
    """Output of a command."""

    out: str
    err: str


def call_mem(folder: Path, *arguments: str, status: int = 0) -> Output:
    """Call a `mem` command in this process, with `folder` as the working directory, and check its exit status."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        actual_status = main(arguments)
    assert actual_status == status, err.getvalue()
    assert "Traceback" not in err.getvalue()
    return Output(out.getvalue(), err.getvalue())


def start_mem(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a `mem` command as a process, with `folder` as the working directory."""
    return subprocess.run([*MEM, *arguments], cwd=folder, capture_output=True, text=True, timeout=300, check=False)


def run_stage(folder: Path, run: Run) -> None:
    """Run one stage in this process. The run's configuration file must exist."""
    call_mem(folder, run.stage, "--config", str(run.folder / "config.yaml"))


def run_study(folder: Path, values: dict, stages: Collection[str] | None = None) -> list[Run]:
    """Run the stages of a study in this process and return its runs.

    Args:
        folder: Working directory. The study is written to `study.yaml` in it.
        values: Settings of the study.
        stages: Stages to run. Only the runs of these stages are returned. None selects all stages.
    """
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    study = load_study([folder / "study.yaml"])
    runs = [run for run in study_runs(study) if stages is None or run.stage in stages]
    for run in runs:
        kept = Path(_FINISHED_RUNS.name) / run.folder
        # Do not reuse the copy of a report run, because the outputs of a report are outside its run folder.
        if kept.is_dir() and run.stage != "report" and not (folder / run.folder).exists():
            shutil.copytree(kept, folder / run.folder)
    write_configs(runs, study, folder)
    for run in runs:
        if not RunFolder(folder / run.folder).finished():
            run_stage(folder, run)
            keep_finished(folder, run)
    return runs


def keep_finished(folder: Path, run: Run) -> None:
    """Keep a copy of a finished run for later calls of `run_study`."""
    shutil.copytree(folder / run.folder, Path(_FINISHED_RUNS.name) / run.folder, dirs_exist_ok=True)


def job_of(folder: Path, run: Run) -> Job:
    """Return the job of a run, as its stage gets it, without tracking.

    Args:
        folder: Working directory in which the run is configured and its inputs are finished.
        run: The run.
    """
    inputs = {name: folder / parent.folder for name, parent in run.inputs.items()}
    config = read_config(folder / run.folder, run.stage)
    return Job(config, RunFolder(folder / run.folder), inputs, World(), NullLog(), StopSignals())


AnyRun = TypeVar("AnyRun", bound=Any)


def find_run(runs: list[AnyRun], stage: str, variant: str | None = None) -> AnyRun:
    """Return the run of a stage. If `variant` is given, return the run of the head with this name."""
    return next(run for run in runs if run.stage == stage and variant in (None, run.labels.get("variant")))


def mini_run(stage: str, variant: str | None = None, changes: dict | None = None) -> Run:
    """Return a run of the mini study, optionally with changed settings."""
    return find_run(study_runs(load_study([MINI], changes)), stage, variant)

"""Threads of stages that run as processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mem.config.load import load_study
from mem.runs.dag import study_runs
from mem.runs.folder import RunFolder, read_record
from mem.runs.run_config import write_configs
from mem.tracking.log import read_events
from tests.stages.running import MEM, MINI_VALUES, find_run, run_study

CORES = len(os.sched_getaffinity(0))
STAGES = ("convert", "pretrain", "finetune", "features", "train_head", "evaluate")


def start(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `mem` in an environment in which only `variables` limit the threads."""
    env = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    env.pop("SLURM_CPUS_PER_TASK", None)
    return subprocess.run(
        [*MEM, *arguments],
        cwd=folder,
        env=env | variables,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory) -> Path:
    """A folder with the converted images of a study that requests two threads for each stage."""
    folder = tmp_path_factory.mktemp("threads")
    values = MINI_VALUES | {"compute": {stage: {"threads": 2} for stage in STAGES}}
    run_study(folder, values, ["convert"])
    study = load_study([folder / "study.yaml"])
    write_configs(study_runs(study), study, folder)
    return folder


def config_of(folder: Path, stage: str) -> Path:
    return folder / find_run(study_runs(load_study([folder / "study.yaml"])), stage).folder / "config.yaml"


@pytest.mark.parametrize(("variables", "threads"), [({}, min(2, CORES)), ({"OMP_NUM_THREADS": "1"}, 1)])
def test_a_training_uses_the_requested_threads_or_those_of_snakemake(prepared, variables, threads):
    config = config_of(prepared, "pretrain")
    output = start(prepared, "pretrain", "--config", str(config), **variables)
    assert output.returncode == 0, output.stderr
    folder = RunFolder(config.parent)
    assert read_record(folder.path)["machine"]["threads"] == threads
    assert read_record(folder.path)["compute"]["threads"] == 2
    starts = [event for event in read_events(folder.log) if event["event"] == "start"]
    assert starts[-1]["machine"]["threads"] == threads
    said = "not 2 as in compute.pretrain.threads, because"
    assert (output.stdout + output.stderr).count(said) == (threads != 2)


def test_importing_mem_leaves_the_threads_of_pytorch(tmp_path):
    code = """
import json, torch
torch.set_num_threads(3)
before = torch.get_num_threads()
import mem.frozen, mem.export, mem.data.beton.reader, mem.data.beton.writer, mem.data.loading.images
print(json.dumps([before, torch.get_num_threads()]))
"""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [3, 3]

"""The stage `features`: resuming after an interruption, float16 tokens, and memory use when features are opened."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from mem.config.load import load_study
from mem.data.features.batches import TrainingFeatures
from mem.data.features.stored import create_feature_file, feature_file, open_split
from mem.data.loading.samplers import InstanceSampler
from mem.runs.dag import Run, study_runs
from mem.runs.run_config import write_configs
from mem.tracking.log import read_events
from tests.stages.running import MEM, MINI_VALUES, run_stage

VIEWS = 60


def write_runs(folder: Path, features: dict) -> dict[str, Run]:
    """Write the configuration file of each run of a study, and return the runs by stage."""
    finetune = MINI_VALUES["finetune"] | {"epochs": 1, "warmup_epochs": 0.1}
    compute = {"features": {"checkpoint_minutes": 1e-4}}
    changes = {"pretrain": None, "finetune": finetune, "features": features, "compute": compute}
    (folder / "study.yaml").write_text(yaml.safe_dump(MINI_VALUES | changes))
    study = load_study([folder / "study.yaml"])
    runs = study_runs(study)
    write_configs(runs, study, folder)
    return {run.stage: run for run in runs if run.stage in ("convert", "finetune", "features")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A folder with converted images, a finetuned backbone and its features."""
    folder = tmp_path_factory.mktemp("features")
    runs = write_runs(folder, MINI_VALUES["features"])
    for stage in ("convert", "finetune", "features"):
        run_stage(folder, runs[stage])
    return folder


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_an_interrupted_features_stage_computes_only_the_missing_chunks(folder, signal_number):
    features = MINI_VALUES["features"] | {"views": VIEWS + int(signal_number == signal.SIGTERM)}
    run = write_runs(folder, features)["features"]
    command = [*MEM, "features", "--config", str(run.folder / "config.yaml")]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    map_file = folder / run.folder / "unfinished" / "map"
    deadline = time.monotonic() + 200
    while not (map_file.exists() and sum(map_file.read_bytes()) >= 4):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal_number)
    process.communicate()
    assert process.returncode == (-9 if signal_number == signal.SIGKILL else 143)
    assert not (folder / run.folder / "train-pooled.npy").exists()
    assert sum(map_file.read_bytes()) < VIEWS
    # Change a value in a saved chunk. If the chunk is not computed again, the changed value remains.
    unfinished = np.load(folder / run.folder / "unfinished" / "train-pooled.npy", mmap_mode="r+")
    unfinished[0, 0, 0] = 123
    unfinished.flush()

    run_stage(folder, run)
    resumed = [event["step"] for event in read_events(folder / run.folder / "log.jsonl") if event["event"] == "resumed"]
    assert len(resumed) == 1
    assert resumed[0] > 233
    train = open_split(folder / run.folder, "train")
    assert train.pooled[0, 0, 0] == 123
    assert train.views == 1 + features["views"]
    reference = open_split(folder / write_runs(folder, MINI_VALUES["features"])["features"].folder, "train")
    for view in range(reference.views):
        np.testing.assert_allclose(train.pooled[view, 1:], reference.pooled[view, 1:], rtol=1e-4, atol=1e-5)
    assert (np.abs(train.pooled).max(axis=2) > 0).all(), "every view of every image is written"
    assert not (folder / run.folder / "unfinished").exists()


def test_tokens_stored_in_float16_are_read_as_float32(folder):
    full = open_split(folder / write_runs(folder, MINI_VALUES["features"])["features"].folder, "train")
    run = write_runs(folder, MINI_VALUES["features"] | {"dtype": "float16"})["features"]
    run_stage(folder, run)
    half = open_split(folder / run.folder, "train")
    assert half.tokens is not None
    assert full.tokens is not None
    assert (half.tokens.dtype, half.pooled.dtype) == (np.float16, np.float32)
    assert half.tokens.nbytes * 2 == full.tokens.nbytes
    batches = [
        list(TrainingFeatures(split, InstanceSampler(len(split), 0), 16, 0, True).from_step(0, 4))
        for split in (half, full)
    ]
    for one, other in zip(*batches, strict=True):
        assert one.inputs.dtype == torch.float32
        torch.testing.assert_close(one.inputs, other.inputs, rtol=1e-3, atol=1e-3)


PEAK_MEMORY = """
import resource, sys
from pathlib import Path
from mem.data.features.stored import open_split
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_split(Path(sys.argv[1]), "train")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_opening_features_needs_little_memory(tmp_path):
    create_feature_file(tmp_path, "train", "pooled", (1, 200_000, 256))  # a sparse file of 200 MB
    np.save(feature_file(tmp_path, "train", "labels"), np.zeros(200_000, np.int64))
    command = [sys.executable, "-c", PEAK_MEMORY, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 60e6

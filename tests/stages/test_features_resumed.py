"""The features stage goes on where it was broken off, and keeps tokens in half the room by setting."""

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
from mem.data.features.files import create_feature_file, feature_file, open_split
from mem.data.features.writer import FeatureWriter, Part, each_rank
from mem.data.loading.samplers import InstanceSampler
from mem.errors import UserError
from mem.runs.dag import Run, study_runs
from mem.runs.run_config import write_configs
from mem.tracking.log import read_events
from tests.conftest import REPOSITORY
from tests.stages.running import MEM, run_here

MINI = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())
VIEWS = 60


def planned(folder: Path, features: dict) -> dict[str, Run]:
    finetune = MINI["finetune"] | {"epochs": 1, "warmup_epochs": 0.1}
    compute = {"features": {"checkpoint_minutes": 1e-4}}
    changed = {"pretrain": None, "finetune": finetune, "features": features, "compute": compute}
    (folder / "study.yaml").write_text(yaml.safe_dump(MINI | changed))
    study = load_study([folder / "study.yaml"])
    runs = study_runs(study)
    write_configs(runs, study, folder)
    return {run.stage: run for run in runs if run.stage in ("convert", "finetune", "features")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where images and a finetuned backbone are."""
    folder = tmp_path_factory.mktemp("features")
    runs = planned(folder, MINI["features"])
    for stage in ("convert", "finetune", "features"):
        run_here(folder, [stage, "--config", str(runs[stage].folder / "config.yaml")])
    return folder


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_features_stage_goes_on_where_it_was(folder, how):
    features = MINI["features"] | {"views": VIEWS + int(how == signal.SIGTERM)}
    run = planned(folder, features)["features"]
    command = [*MEM, "features", "--config", str(run.folder / "config.yaml")]
    process = subprocess.Popen(command, cwd=folder, stderr=subprocess.PIPE, text=True)
    done = folder / run.folder / "unfinished" / "map"
    deadline = time.monotonic() + 200
    while not (done.exists() and sum(done.read_bytes()) >= 4):
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(how)
    process.communicate()
    assert process.returncode == (-9 if how == signal.SIGKILL else 143)
    assert not (folder / run.folder / "train-pooled.npy").exists()
    there = sum(done.read_bytes())
    assert there < VIEWS
    # A number that nobody would compute, in a piece that is there: it stays if the piece is not made again.
    half = np.load(folder / run.folder / "unfinished" / "train-pooled.npy", mmap_mode="r+")
    half[0, 0, 0] = 123
    half.flush()

    run_here(folder, ["features", "--config", str(run.folder / "config.yaml")])
    resumed = [event["step"] for event in read_events(folder / run.folder / "log.jsonl") if event["event"] == "resumed"]
    assert len(resumed) == 1
    assert resumed[0] > 233
    train = open_split(folder / run.folder, "train")
    assert train.pooled[0, 0, 0] == 123
    assert train.views == 1 + features["views"]
    first = open_split(folder / planned(folder, MINI["features"])["features"].folder, "train")
    for view in range(first.views):
        np.testing.assert_allclose(train.pooled[view, 1:], first.pooled[view, 1:], rtol=1e-4, atol=1e-5)
    assert (np.abs(train.pooled).max(axis=2) > 0).all(), "every view of every image was written"
    assert not (folder / run.folder / "unfinished").exists()


def test_tokens_in_half_precision_are_read_back_as_float32(folder):
    full = open_split(folder / planned(folder, MINI["features"])["features"].folder, "train")
    run = planned(folder, MINI["features"] | {"dtype": "float16"})["features"]
    run_here(folder, ["features", "--config", str(run.folder / "config.yaml")])
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


# --- the writer ------------------------------------------------------------------------------------------------


def writer(folder: Path, key: str = "k", views: int = 2, dtype: str = "float32") -> FeatureWriter:
    return FeatureWriter(folder, key, {"train": Part(views, 10, {"pooled": (3,)}, {"pooled": dtype})}, 4, 0.0)


def write(made: FeatureWriter, pieces: list, value: float = 1.0) -> None:
    for piece in pieces:
        made.write(piece, {"pooled": np.full((piece.count, 3), value)})
    made.close()


def test_only_missing_pieces_are_left_and_only_for_the_same_run(tmp_path):
    made = writer(tmp_path)
    assert made.begin() == 0
    write(made, made.missing()[:3])
    assert writer(tmp_path).begin() == 10
    assert [p.number for p in writer(tmp_path).missing()] == [3, 4, 5]
    assert writer(tmp_path, views=3).begin() == 0
    write(writer(tmp_path, views=3), writer(tmp_path, views=3).missing())
    assert writer(tmp_path, "other", views=3).begin() == 0


@pytest.mark.parametrize("ranks", [1, 2, 4, 9])
def test_ranks_share_the_pieces(tmp_path, ranks):
    made = writer(tmp_path)
    made.begin()
    for rank in range(ranks):
        write(writer(tmp_path), each_rank(list(made.pieces()), rank, ranks), rank + 1)
    assert made.missing() == []
    made.done()
    assert (np.load(feature_file(tmp_path, "train", "pooled")) > 0).all()


@pytest.mark.parametrize(("value", "said"), [(np.nan, "image 0 of train .* not finite"), (1e6, "ends at 6.55e[+]04")])
def test_numbers_that_cannot_be_kept_are_refused(tmp_path, value, said):
    made = writer(tmp_path, dtype="float16")
    made.begin()
    with pytest.raises(UserError, match=said):
        write(made, made.missing(), value)


PEAK = """
import resource, sys
from pathlib import Path
from mem.data.features.files import open_split
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
open_split(Path(sys.argv[1]), "train")
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_looking_for_nan_takes_no_memory_for_the_features(tmp_path):
    create_feature_file(tmp_path, "train", "pooled", (1, 200_000, 256))  # 200 MB, of holes
    np.save(feature_file(tmp_path, "train", "labels"), np.zeros(200_000, np.int64))
    done = subprocess.run([sys.executable, "-c", PEAK, str(tmp_path)], capture_output=True, text=True, check=True)
    assert int(done.stdout) * 1024 < 60e6


def test_nan_is_found_wherever_it_is(tmp_path):
    pooled = create_feature_file(tmp_path, "train", "pooled", (2, 5000, 256))
    pooled[1, 4999, 255] = np.nan
    np.save(feature_file(tmp_path, "train", "labels"), np.zeros(5000, np.int64))
    with pytest.raises(UserError, match="not finite"):
        open_split(tmp_path, "train")

"""BatchNorm statistics that are updated before features are computed (`features.batch_norm`)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from mem.config import Augmentation
from mem.data.features.stored import open_split
from mem.data.features.writer import FeatureWriter
from mem.data.loading.finetuning_samplers import build_finetuning_sampler
from mem.data.loading.images import TrainingImages
from mem.data.loading.split_images import open_images
from mem.errors import UserError
from mem.jobs.batch_norm import UNFINISHED_STATISTICS
from mem.models.pixels import Pixels
from mem.models.weights.tensors import load_weights
from mem.runs.keys import CROPS
from mem.runs.outputs import BATCH_NORM_STATISTICS, CLASSIFIER, missing_outputs, output_files
from mem.tracking.log import read_events
from tests.export.conftest import FinishedStudy
from tests.export.exported_predictions import assert_exports_predict_as_evaluated
from tests.stages.running import MEM, MINI_VALUES, call_mem, run_study

pytestmark = pytest.mark.stage
BATCH = 8
AUGMENTATION = {"crop_scale": [0.5, 1.0], "flip": True}
STAGES = ("convert", "finetune", "features", "train_head", "evaluate")
STATISTICS = (".running_mean", ".running_var", ".num_batches_tracked")


def study_values(**features) -> dict:
    """Return a study with a CNN whose BatchNorm statistics are updated with one group of images per step."""
    update = {"sampler": "class_balanced", "epochs": 0.5, "batch": BATCH}
    return MINI_VALUES | {
        "study": "batch_norm",
        "pretrain": None,
        "backbone": {
            "name": "cnn_norm", "kind": "timm", "model": "resnet10t", "image_size": 32, "norm_batch": BATCH,
            "center_crop": 1.0,
        },
        "finetune": MINI_VALUES["finetune"] | {"epochs": 1, "warmup_epochs": 0.1, "drop_path": 0.0},
        "features": {"views": 1, "augmentation": AUGMENTATION, "tokens": False, "batch_norm": update, **features},
        "heads": {"ce": None, "ncm": None},
        "compute": {},
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FinishedStudy:
    folder = tmp_path_factory.mktemp("batch_norm")
    return FinishedStudy(folder, run_study(folder, study_values(), STAGES))


def test_the_statistics_equal_those_of_pytorch(finished):
    """PyTorch's BatchNorm of timm's network, without the classes of this project."""
    weights = load_weights(finished.run("finetune") / "model.safetensors")
    network = timm.create_model("resnet10t", num_classes=10)
    network.load_state_dict(weights)
    network.eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.train()
    train = open_images(finished.run("convert"), "train")
    steps = -(-len(train) // 2 // BATCH)
    sampler = build_finetuning_sampler("class_balanced", train.labels, 0, steps * BATCH)
    assert np.bincount(train.labels[sampler.indices(0, 40)]).tolist() == [4] * 10
    dataset = MINI_VALUES["dataset"]
    pixels = Pixels(tuple(dataset["pixel_mean"]), tuple(dataset["pixel_std"]))
    fill = tuple(round(255 * mean) for mean in dataset["pixel_mean"])
    data = TrainingImages(train.file, sampler, BATCH, 32, Augmentation(**AUGMENTATION), seed=0, workers=1, fill=fill)
    with torch.no_grad():
        for batch in data.from_step(0, steps):
            network(pixels.normalise(batch.inputs))
    found, expected = load_weights(finished.run("features") / BATCH_NORM_STATISTICS), network.state_dict()
    assert found.keys() == {name for name in expected if name.endswith(STATISTICS)}
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4)
    assert any(not torch.allclose(value, weights[name], rtol=0.01, atol=0.01) for name, value in found.items())


@pytest.mark.parametrize("variant", ["ce", "ncm"])
def test_an_exported_model_contains_the_updated_statistics(finished, variant, tmp_path):
    assert_exports_predict_as_evaluated(finished, variant, tmp_path / "out", atol=1e-4, rtol=1e-3)
    weights = load_weights(tmp_path / "out" / "backbone.safetensors")
    statistics = load_weights(finished.run("features") / BATCH_NORM_STATISTICS)
    assert all(torch.equal(weights[name], value) for name, value in statistics.items())


def test_online_features_use_the_updated_statistics(finished):
    online = FinishedStudy(finished.folder, run_study(finished.folder, study_values(online=True), STAGES))
    one, other = (load_weights(study.run("train_head", "ncm") / "head.safetensors") for study in (finished, online))
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-4, atol=1e-5)


def test_crops_use_the_updated_statistics(finished):
    crops = {"evaluate": {"crops": {"number": 2, "resize": 32}}}
    runs = run_study(finished.folder, study_values() | crops, ("convert", "finetune", "features"))
    run = next(run for run in runs if CROPS in run.settings)
    folder = finished.folder / run.folder
    assert missing_outputs(folder, "features", run.settings, run.inputs) == ()
    for name in (BATCH_NORM_STATISTICS, CLASSIFIER):
        assert (folder / name).read_bytes() == (finished.run("features") / name).read_bytes()
    plain, found = (open_split(each, "test").pooled for each in (finished.run("features"), folder))
    # The image is a square that is enlarged as a whole, as with `center_crop: 1.0`.
    np.testing.assert_allclose(found[0], plain[0], rtol=1e-4, atol=1e-5)
    assert np.abs(found[1] - plain[0]).max() > 1e-3


def unfinished_copy(finished: FinishedStudy, folder: Path) -> Path:
    """Copy the study, without the features that were computed from the updated statistics."""
    shutil.copytree(finished.folder / "runs", folder / "runs")
    features = folder / finished.run("features").relative_to(finished.folder)
    for file in features.iterdir():
        if file.name not in ("config.yaml", "site.yaml", BATCH_NORM_STATISTICS):
            file.unlink()
    return features


def test_a_resumed_run_uses_the_stored_statistics_and_a_repeated_update_gives_the_same_file(finished, tmp_path):
    features = unfinished_copy(finished, tmp_path)
    statistics = features / BATCH_NORM_STATISTICS
    before, written = statistics.read_bytes(), statistics.stat().st_mtime_ns
    statistics.rename(features / UNFINISHED_STATISTICS)  # as after an interruption
    arguments = ("features", "--config", str(features.relative_to(tmp_path) / "config.yaml"))
    call_mem(tmp_path, *arguments)
    assert statistics.stat().st_mtime_ns == written
    assert not (features / UNFINISHED_STATISTICS).exists()
    pooled = (features / "test-pooled.npy").read_bytes()
    assert pooled == (finished.run("features") / "test-pooled.npy").read_bytes()
    (features / "run.json").unlink()
    statistics.unlink()
    call_mem(tmp_path, *arguments)
    assert statistics.read_bytes() == before


def test_a_run_that_fails_while_features_are_computed_resumes_with_the_same_statistics(finished, tmp_path, monkeypatch):
    features = unfinished_copy(finished, tmp_path)
    (features / BATCH_NORM_STATISTICS).unlink()
    arguments = ("features", "--config", str(features.relative_to(tmp_path) / "config.yaml"))
    write, written = FeatureWriter.write, []

    def write_two(writer, chunk, values):
        if len(written) == 2:
            raise UserError("The disk is full.")
        written.append(chunk.number)
        write(writer, chunk, values)

    monkeypatch.setattr(FeatureWriter, "write", write_two)
    call_mem(tmp_path, *arguments, status=2)
    monkeypatch.undo()
    time = (features / UNFINISHED_STATISTICS).stat().st_mtime_ns
    for name in output_files("features", study_values(), ["classifier"]) or ():  # as Snakemake does
        (features / name).unlink(missing_ok=True)
    call_mem(tmp_path, *arguments)
    assert [e["step"] for e in read_events(features / "log.jsonl") if e["event"] == "resumed"] == [256 + 233]
    assert (features / BATCH_NORM_STATISTICS).stat().st_mtime_ns == time
    for file in sorted(finished.run("features").iterdir()):
        if file.suffix in (".npy", ".safetensors"):
            assert (features / file.name).read_bytes() == file.read_bytes(), file.name


def test_two_ranks_compute_the_same_statistics(finished, tmp_path):
    features = unfinished_copy(finished, tmp_path)
    (features / BATCH_NORM_STATISTICS).unlink()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    command = [*MEM, "features", "--config", str(features.relative_to(tmp_path) / "config.yaml")]
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(command, cwd=tmp_path, env=os.environ | variables | {"RANK": rank, "LOCAL_RANK": rank})
        for rank in ("0", "1")
    ]
    try:
        assert [rank.wait(timeout=240) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
            rank.wait()
    found = load_weights(features / BATCH_NORM_STATISTICS)
    for name, value in load_weights(finished.run("features") / BATCH_NORM_STATISTICS).items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4)

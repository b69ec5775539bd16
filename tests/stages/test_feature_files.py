"""Studies that use feature files provided by the user."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mem.config import Study
from mem.data.features.stored import open_split
from mem.frozen import fit_head
from mem.heads.build import load_head
from mem.plan.text import AssumedGpu, plan_text
from mem.report.results import from_csv
from mem.runs.dag import Run, study_runs
from mem.runs.folder import read_record
from mem.runs.run_config import write_configs
from tests.stages.custom_studies import FEW_HEADS, HEADS, feature_file_study
from tests.stages.running import call_mem, find_run, run_study


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[Run]]:
    folder = tmp_path_factory.mktemp("feature_files")
    return folder, run_study(folder, feature_file_study(folder))


def test_heads_are_trained_on_features_in_files(finished):
    folder, runs = finished
    assert [run.stage for run in runs if run.stage not in ("train_head", "evaluate")] == ["features", "report"]
    summary = read_record(folder / runs[0].folder)["results"]
    assert summary["classes"] == ["ant", "bee", "cat", "dog", "elk", "fox"]
    assert summary["splits"]["train"]["counts"] == [120, 110, 60, 40, 15, 10]
    split = open_split(folder / runs[0].folder, "train")
    features = np.load(folder / "train.npy")
    assert np.array_equal(split.inputs(0, np.arange(len(split)), tokens=True).numpy(), features)
    rows = from_csv(folder / "results" / "own_features" / "report" / "results.csv")
    assert {row.variant for row in rows} == set(FEW_HEADS)
    assert all(row.all > 60 for row in rows if row.split == "test")  # chance level: 17 %
    assert "elk" in (folder / "results" / "own_features" / "report" / "index.html").read_text()


def test_the_python_interface_fits_the_same_head_as_the_stage(finished):
    folder, runs = finished
    crt = find_run(runs, "train_head", "crt")
    head = fit_head({"method": "crt", **HEADS["crt"]}, np.load(folder / "train.npy"), np.load(folder / "labels.npy"))
    for name, value in load_head(folder / crt.folder).state_dict().items():
        torch.testing.assert_close(head.head.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_mem_plan_reads_the_sizes_from_the_files(finished):
    folder, _ = finished
    text = plan_text([folder / "study.yaml"], given={}, gpu=AssumedGpu(), cpu_gflops=50)
    assert "355 training, 60 val and 60 test images of 6 classes (counted in its files)" in text
    assert "features" in text and "finetune" not in text


def test_the_key_depends_on_the_content_of_the_files(tmp_path):
    values = feature_file_study(tmp_path)
    before = study_runs(Study.model_validate(values))[0].key
    np.save(tmp_path / "train.npy", np.load(tmp_path / "train.npy") + 1)
    assert study_runs(Study.model_validate(values))[0].key != before


def features_error(folder: Path, values: dict) -> str:
    """Run the stage `features`, which must fail, and return the error message."""
    study = Study.model_validate(values)
    runs = study_runs(study)
    write_configs(runs[:1], study, folder)
    return call_mem(folder, "features", "--config", str(runs[0].folder / "config.yaml"), status=2).err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f, y: (f[:-1], y), "labels of shape (355,); expected one label per image, shape (354,)"),
        (lambda f, y: (f[:, :, :5], y), "features have shape (4, 8) per image, but train has shape (4, 5)"),
        (lambda f, y: (np.where(np.arange(355)[:, None, None] == 300, np.nan, f), y), "the features of image 300"),
        (lambda f, y: (f, np.where(y == 4, 3, y)), "train: class 4 has no training images"),
        (lambda f, y: (f[:, 0, 0], y), "features have shape (355,); expected (images, width)"),
    ],
    ids=["length", "width", "nan", "absent", "shape"],
)
def test_inconsistent_files_end_the_stage_with_one_message(tmp_path, change, expected):
    values = feature_file_study(tmp_path)
    features, labels = change(np.load(tmp_path / "train.npy"), np.load(tmp_path / "labels.npy"))
    np.save(tmp_path / "train.npy", features)
    np.save(tmp_path / "labels.npy", labels)
    assert expected in features_error(tmp_path, values)


def test_missing_and_damaged_files_are_named(tmp_path):
    values = feature_file_study(tmp_path)
    (tmp_path / "val.safetensors").write_bytes(b"nothing")
    assert "val.safetensors: cannot be read" in features_error(tmp_path, values)
    (tmp_path / "val.safetensors").unlink()
    assert "val.safetensors: no such file" in features_error(tmp_path, values)
    np.savez(tmp_path / "several.npz", features=np.zeros((2, 4)))
    (tmp_path / "several.npz").rename(tmp_path / "train.npy")
    assert "train.npy: cannot be read as an array" in (message := features_error(tmp_path, values))
    assert "it is an archive of arrays (.npz); save each array with numpy.save" in message
    (tmp_path / "train.npy").write_bytes(b"PK\x03\x04" + bytes(100))
    assert "train.npy: cannot be read as an array" in features_error(tmp_path, values)


def test_the_record_of_a_head_names_its_features(finished):
    folder, runs = finished
    crt = find_run(runs, "train_head", "crt")
    assert json.loads((folder / crt.folder / "run.json").read_text())["inputs"] == {"features": str(runs[0].folder)}

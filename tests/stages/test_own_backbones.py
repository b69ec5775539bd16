"""Studies whose backbone nobody finetunes: as it comes from pretraining, one's own module, one's own features."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.numpy import save_file

from mem.config import Study
from mem.config.load import load_study
from mem.data.features.files import open_split
from mem.errors import UserError
from mem.frozen import fit_head
from mem.heads.build import load_head
from mem.plan.text import plan_text
from mem.report.results import from_csv
from mem.runs.dag import Run, study_runs
from mem.runs.folder import read_record
from tests.conftest import REPOSITORY
from tests.stages.running import refusal
from tests.stages.test_no_val import ran, run_of

MINI = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text())
PROBE = {"training": MINI["heads"]["lws"]["training"] | {"sampler": "instance"}}
HEADS = MINI["heads"] | {"ce": PROBE}
FEW_HEADS = {name: HEADS[name] for name in ("ce", "tau", "crt", "mem_on_crt")}
MODULE = """
import torch
from torch import nn


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(3 * 4, 16)

    def forward(self, images):
        patches = nn.functional.unfold(images, 2, stride=2).transpose(1, 2)
        tokens = self.embed(patches).relu()
        return tokens.mean(dim=1), tokens


def backbone():
    torch.manual_seed(1)
    return Mean()


def nothing():
    return 3


def broken():
    raise RuntimeError("weights are not here")
"""


def settings(**changed) -> dict:
    return MINI | {"finetune": None, "heads": HEADS} | changed


def load_user_module(folder: Path, function: str = "backbone", **changed) -> dict:
    (folder / "mine.py").write_text(MODULE)
    backbone = {"name": "mine", "kind": "module", "module": f"{folder / 'mine.py'}:{function}"}
    backbone |= {"image_size": 8, "center_crop": 1.0}
    return settings(study="own_module", backbone=backbone, pretrain=None) | changed


def own_features(folder: Path, **changed) -> dict:
    """Features in files of both kinds: with tokens in .npy for train, in safetensors for val and test."""
    rng = np.random.default_rng(0)
    centres = 2 * rng.normal(size=(6, 8))

    def made(counts: list[int]) -> tuple[np.ndarray, np.ndarray]:
        labels = np.repeat(np.arange(6), counts)
        features = centres[labels][:, None] + rng.normal(size=(len(labels), 4, 8))
        return features.astype(np.float32), labels

    features, labels = made([120, 110, 60, 40, 15, 10])
    np.save(folder / "train.npy", features)
    np.save(folder / "labels.npy", labels)
    for split in ("val", "test"):
        features, labels = made([10] * 6)
        save_file({"features": features, "labels": labels}, folder / f"{split}.safetensors")
    (folder / "names.txt").write_text("\n".join(["ant", "bee", "cat", "dog", "elk", "fox"]))
    dataset = {"source": "features", "name": "mine", "train_features": "train.npy", "train_labels": "labels.npy"}
    dataset |= {f"{split}_features": f"{split}.safetensors" for split in ("val", "test")}
    dataset = {k: v if k in ("source", "name") else str(folder / v) for k, v in dataset.items()}
    dataset["class_names"] = str(folder / "names.txt")
    nothing = dict.fromkeys(("pretrain", "finetune", "features"))
    values = MINI | nothing | {"study": "own_features", "dataset": dataset, "heads": FEW_HEADS}
    return values | {"backbone": {"name": "elsewhere", "kind": "none"}} | changed


# --- as it comes from pretraining --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def frozen(tmp_path_factory) -> tuple[Path, list[Run]]:
    folder = tmp_path_factory.mktemp("frozen")
    return folder, ran(folder, settings(study="frozen"))


def test_an_encoder_that_nobody_finetunes_goes_straight_to_the_heads(frozen):
    folder, runs = frozen
    assert [run.stage for run in runs[:3]] == ["convert", "pretrain", "features"]
    assert "finetune" not in {run.stage for run in runs}
    assert set(run_of(runs, "features").inputs) == {"images", "encoder"}
    assert not (folder / run_of(runs, "features").folder / "classifier.safetensors").exists()
    rows = from_csv(folder / "results" / "frozen" / "report" / "results.csv")
    assert {row.variant for row in rows} == set(HEADS)
    assert all(row.all > 15 for row in rows if row.variant in ("ce", "crt"))  # ten classes: chance is 10 %


def test_heads_start_from_the_linear_probe(frozen):
    folder, runs = frozen
    probe = run_of(runs, "train_head", "ce")
    starts = {run.labels["variant"]: run.inputs.get("head") for run in runs if run.stage == "train_head"}
    crt = run_of(runs, "train_head", "crt")
    assert starts == {"ce": None, "crt": None, "tau": probe, "lws": probe, "mem": probe, "mem_on_crt": crt}
    weight = load_head(folder / probe.folder).get_parameter("weight")
    scaled = load_head(folder / run_of(runs, "train_head", "lws").folder)
    assert torch.equal(scaled.get_buffer("weight"), weight)


# --- one's own module --------------------------------------------------------------------------------------


def test_ones_own_module_gives_the_features(tmp_path):
    runs = ran(tmp_path, load_user_module(tmp_path, heads={"ce": PROBE, "mem": HEADS["mem"] | {"input": "tokens"}}))
    split = open_split(tmp_path / run_of(runs, "features").folder, "train")
    assert split.shape(tokens=True) == (17, 16)
    assert (tmp_path / "results" / "own_module" / "report" / "index.html").exists()


def test_the_file_of_a_module_and_its_function_are_part_of_the_key_and_its_place_is_not(tmp_path):
    def key(folder: Path, function: str = "backbone") -> str:
        return run_of(study_runs(Study.model_validate(load_user_module(folder, function))), "features").key

    (tmp_path / "elsewhere").mkdir()
    before = key(tmp_path)
    assert key(tmp_path / "elsewhere") == before
    assert key(tmp_path, "other") != before
    values = load_user_module(tmp_path)
    (tmp_path / "mine.py").write_text(MODULE.replace("relu", "tanh"))
    assert run_of(study_runs(Study.model_validate(values)), "features").key != before


@pytest.mark.parametrize(
    ("function", "expected"),
    [
        ("nothing", "mine.py:nothing: returned int; expected a torch.nn.Module"),
        ("broken", "mine.py:broken: RuntimeError: weights are not here"),
        ("absent", "mine.py:absent: AttributeError"),
    ],
)
def test_a_function_that_makes_no_module_is_named(tmp_path, function, expected):
    from mem.models.backbones.frozen import load_user_module as made

    (tmp_path / "mine.py").write_text(MODULE)
    with pytest.raises(UserError, match=expected):
        made(tmp_path / "mine.py", function)


# --- one's own features ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def given(tmp_path_factory) -> tuple[Path, list[Run]]:
    folder = tmp_path_factory.mktemp("given")
    return folder, ran(folder, own_features(folder))


def test_features_in_files_go_straight_to_the_heads(given):
    folder, runs = given
    assert [run.stage for run in runs if run.stage not in ("train_head", "evaluate")] == ["features", "report"]
    about = read_record(folder / runs[0].folder)["results"]
    assert about["classes"] == ["ant", "bee", "cat", "dog", "elk", "fox"]
    assert about["splits"]["train"]["counts"] == [120, 110, 60, 40, 15, 10]
    split = open_split(folder / runs[0].folder, "train")
    whole = np.load(folder / "train.npy")
    assert np.array_equal(split.inputs(0, np.arange(len(split)), tokens=True).numpy(), whole)
    rows = from_csv(folder / "results" / "own_features" / "report" / "results.csv")
    assert {row.variant for row in rows} == set(FEW_HEADS)
    assert all(row.all > 60 for row in rows if row.split == "test")  # of six classes: chance is 17 %
    assert "elk" in (folder / "results" / "own_features" / "report" / "index.html").read_text()


def test_a_head_of_a_study_is_the_one_that_python_fits_with_the_same_settings(given):
    folder, runs = given
    crt = run_of(runs, "train_head", "crt")
    head = fit_head({"method": "crt", **HEADS["crt"]}, np.load(folder / "train.npy"), np.load(folder / "labels.npy"))
    for name, value in load_head(folder / crt.folder).state_dict().items():
        torch.testing.assert_close(head.head.state_dict()[name], value, rtol=1e-4, atol=1e-5)


def test_mem_plan_knows_the_sizes_from_the_files(given):
    folder, _ = given
    text = plan_text([folder / "study.yaml"], given={}, peak_tflops=790, utilisation=0.4, cpu_gflops=50, device_gb=80)
    assert "355 training, 60 val and 60 test images of 6 classes (counted in its files)" in text
    assert "features" in text and "finetune" not in text


def test_keys_follow_what_the_files_hold(tmp_path):
    values = own_features(tmp_path)
    before = study_runs(Study.model_validate(values))[0].key
    np.save(tmp_path / "train.npy", np.load(tmp_path / "train.npy") + 1)
    assert study_runs(Study.model_validate(values))[0].key != before


def broken_run(folder: Path, values: dict) -> str:
    """What the stage features says of a study."""
    from mem.runs.run_config import write_configs

    study = Study.model_validate(values)
    runs = study_runs(study)
    write_configs(runs[:1], study, folder)
    return refusal(folder, "features", "--config", str(runs[0].folder / "config.yaml"))


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda f, y: (f[:-1], y), "labels of shape (355,); expected one label for each image, (354,)"),
        (lambda f, y: (f[:, :, :5], y), "features of an image have shape (4, 8), those of train (4, 5)"),
        (lambda f, y: (np.where(np.arange(355)[:, None, None] == 300, np.nan, f), y), "the features of image 300"),
        (lambda f, y: (f, np.where(y == 4, 3, y)), "1 of 6 classes have no training image: 4"),
        (lambda f, y: (f[:, 0, 0], y), "features have shape (355,); expected (images, width)"),
    ],
    ids=["length", "width", "nan", "absent", "shape"],
)
def test_files_that_do_not_fit_end_in_one_message(tmp_path, change, expected):
    values = own_features(tmp_path)
    features, labels = change(np.load(tmp_path / "train.npy"), np.load(tmp_path / "labels.npy"))
    np.save(tmp_path / "train.npy", features)
    np.save(tmp_path / "labels.npy", labels)
    assert expected in broken_run(tmp_path, values)


def test_files_that_are_missing_damaged_or_changed_are_named(tmp_path):
    values = own_features(tmp_path)
    (tmp_path / "val.safetensors").write_bytes(b"nothing")
    assert "val.safetensors: cannot be read" in broken_run(tmp_path, values)
    (tmp_path / "val.safetensors").unlink()
    assert "val.safetensors: no such file" in broken_run(tmp_path, values)


# --- what a study may not say ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"heads": HEADS | {"ce": None}}, "heads.ce.training: is required, because nothing is finetuned"),
        ({"heads": {"crt": HEADS["crt"], "tau": HEADS["tau"]}}, "heads.tau: starts from a classifier"),
        ({"features": None}, "features: is required, because the data set consists of images"),
        ({"backbone": {"name": "n", "kind": "none"}}, "dataset.source `features` requires backbone.kind `none`"),
    ],
)
def test_a_study_that_cannot_be_is_refused_when_it_is_read(tmp_path, change, expected):
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(settings() | change))
    with pytest.raises(UserError, match=expected):
        load_study([tmp_path / "study.yaml"])


def test_features_and_modules_are_neither_pretrained_nor_finetuned(tmp_path):
    for values, expected in (
        (own_features(tmp_path, pretrain=MINI["pretrain"]), "pretrain: must be null, because the data set consists"),
        (load_user_module(tmp_path, finetune=MINI["finetune"]), "kind `module` cannot be trained"),
        (
            load_user_module(tmp_path, backbone=load_user_module(tmp_path)["backbone"] | {"module": "mine"}),
            "path/to/file.py:func",
        ),
        (
            load_user_module(
                tmp_path,
                backbone={
                    "kind": "timm",
                    "name": "r",
                    "model": "resnet18",
                    "norm_batch": 4,
                    "image_size": 32,
                    "center_crop": 1.0,
                },
            ),
            "backbone.norm_batch: must be null",
        ),
    ):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(values))
        with pytest.raises(UserError, match=expected):
            load_study([tmp_path / "study.yaml"])


def test_the_runs_folder_says_which_features_a_head_read(given):
    folder, runs = given
    crt = run_of(runs, "train_head", "crt")
    assert json.loads((folder / crt.folder / "run.json").read_text())["inputs"] == {"features": str(runs[0].folder)}

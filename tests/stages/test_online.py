"""Online features, and heads trained on them, compared with stored features and their heads."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from mem.config.load import load_study
from mem.data.features.batches import TrainingFeatures
from mem.data.features.stored import FeatureSource, open_split
from mem.data.loading.samplers import build_sampler
from mem.errors import UserError
from mem.heads.build import load_head
from mem.jobs.feature_sources import feature_sources
from mem.runs.dag import Run, study_runs
from tests.key_biases import without_key_biases
from tests.stages.running import MINI, MINI_VALUES, find_run, job_of, run_study
from tests.workflow.conftest import snakemake

CNN = {"name": "cnn", "kind": "timm", "model": "resnet18", "image_size": 32, "center_crop": 1.0, "norm_batch": 32}
CNN_OPTIONS = {"cnn": {}, "neck": {"model": "resnet10t", "neck_width": 24, "zero_init_last": False}}
AUGMENTATION = {
    "crop_scale": [0.5, 1.0],
    "flip": True,
    "rand_augment": {"layers": 1, "magnitude": 5, "magnitude_std": 0.5, "increasing": True},
    "color_jitter": [0.2, 0.2, 0.2],
}
STAGES = ("convert", "finetune", "features", "train_head", "evaluate")


def study_values(kind: str, online: bool) -> dict:
    """Return a study with a ViT or a CNN, with heads on pooled features and on tokens, and with different samplers."""
    features = {"views": 2, "augmentation": AUGMENTATION, "tokens": True, **({"online": True} if online else {})}
    heads = {name: MINI_VALUES["heads"][name] for name in ("ce", "tau", "crt", "mem_on_crt")}
    heads["mem_on_crt"] = MINI_VALUES["heads"]["mem"] | heads["mem_on_crt"]
    heads["ncm"] = {"method": "ncm"}
    finetune = MINI_VALUES["finetune"] | {"epochs": 1, "warmup_epochs": 0.1, "drop_path": 0.0}
    if kind == "neck":
        finetune |= {"step_decay": {"every_epochs": 0.5, "factor": 0.1}, "classifier_lr_factor": 10.0}
        finetune |= {"mixup": 0.8, "mix_batch": 4}
    changes = {"pretrain": None, "finetune": finetune, "features": features, "heads": heads, "compute": {}}
    return MINI_VALUES | changes | ({} if kind == "vit" else {"backbone": CNN | CNN_OPTIONS[kind]})


@pytest.fixture(scope="module", params=["vit", "cnn", "neck"])
def studies(request, tmp_path_factory) -> tuple[Path, dict[bool, list[Run]]]:
    """The folder in which both studies were run, and the runs of each study, by its value of `features.online`."""
    folder = tmp_path_factory.mktemp(request.param)
    runs = {online: run_study(folder, study_values(request.param, online), STAGES) for online in (False, True)}
    return folder, runs


def online_split(folder: Path, runs: list[Run], split: str) -> FeatureSource:
    """Return a split, opened in the same way as in the stage `train_head`."""
    return feature_sources(job_of(folder, find_run(runs, "train_head", "crt")))(split)


def stored_and_online_split(
    studies: tuple[Path, dict[bool, list[Run]]], split: str = "train"
) -> tuple[FeatureSource, FeatureSource]:
    folder, runs = studies
    stored = open_split(folder / find_run(runs[False], "features").folder, split)
    return stored, online_split(folder, runs[True], split)


@pytest.mark.parametrize("tokens", [False, True])
@pytest.mark.parametrize("split", ["train", "val", "test"])
def test_online_features_of_every_view_equal_the_stored_ones(studies, split, tokens):
    stored, online = stored_and_online_split(studies, split)
    shape = (len(online), online.views, online.shape(tokens=tokens))
    assert shape == (len(stored), stored.views, stored.shape(tokens=tokens))
    assert online.labels.tolist() == stored.labels.tolist()
    rng = np.random.default_rng(0)
    indices = rng.permutation(len(stored))[:70]
    views = rng.integers(0, stored.views, 70)
    expected = stored.inputs(views, indices, tokens=tokens)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(online.inputs(views, indices, tokens=tokens), expected, rtol=1e-4, atol=1e-4 * scale)


@pytest.mark.parametrize("studies", ["neck"], indirect=True)
def test_features_of_a_network_with_a_neck_are_outputs_of_its_relu(studies):
    for source in stored_and_online_split(studies):
        values = source.inputs(np.zeros(50, int), np.arange(50), tokens=True)
        assert values.shape == (50, 2, 24)
        assert values.min() == 0 < values.max()


@pytest.mark.parametrize("name", ["instance", "class_balanced"])
@pytest.mark.parametrize("step", [0, 3])
def test_training_gets_the_same_batches_from_any_step_with_any_number_of_workers(studies, name, step, monkeypatch):
    stored = stored_and_online_split(studies)[0]

    def batches(split: FeatureSource) -> list:
        sampler = build_sampler(name, split.labels, 10, 0)
        return list(TrainingFeatures(split, sampler, 24, 0, True).from_step(step, 5))

    expected = batches(stored)
    for cores in ("1", "3"):
        monkeypatch.setenv("OMP_NUM_THREADS", cores)
        for one, other in zip(batches(stored_and_online_split(studies)[1]), expected, strict=True):
            assert (one.labels.tolist(), one.first, one.seed) == (other.labels.tolist(), other.first, other.seed)
            torch.testing.assert_close(one.inputs, other.inputs, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("head", ["crt", "mem_on_crt", "ncm", "tau"])
def test_heads_have_the_same_weights(studies, head):
    folder, runs = studies
    stored, online = (load_head(folder / find_run(runs[o], "train_head", head).folder) for o in (False, True))
    weights, expected = (without_key_biases(model.state_dict()) for model in (online, stored))
    torch.testing.assert_close(weights, expected, rtol=1e-3, atol=1e-3)


def test_an_online_study_stores_only_labels_and_has_the_same_scores(studies):
    folder, runs = studies
    features = folder / find_run(runs[True], "features").folder
    assert sorted(p.name for p in features.glob("*.npy")) == [f"{s}-labels.npy" for s in ("test", "train", "val")]
    for head in ("ce", "crt", "mem_on_crt"):
        scores = [
            json.loads((folder / find_run(runs[online], "evaluate", head).folder / "metrics.json").read_text())
            for online in (False, True)
        ]
        stored, online = (s["splits"]["test"]["accuracy"]["all"] for s in scores)
        assert online == pytest.approx(stored, abs=1.01)  # rounding may change two of the 200 predictions


def test_opening_features_that_were_not_stored_is_an_error_with_the_reason(studies):
    folder, runs = studies
    with pytest.raises(UserError, match=r"labels but no features.*`features\.online: true`"):
        open_split(folder / find_run(runs[True], "features").folder, "val")


def test_images_and_model_are_inputs_of_heads_only_in_online_studies():
    keys = {}
    for online in (False, True):
        study = load_study([MINI], {"features": {"online": online}})
        for stage in ("train_head", "evaluate"):
            run = find_run(study_runs(study), stage, "crt")
            assert ({"images", "classifier"} <= set(run.inputs)) == online
            keys[online, stage] = run.key
    assert keys[False, "train_head"] == find_run(study_runs(load_study([MINI])), "train_head", "crt").key
    assert keys[True, "train_head"] != keys[False, "train_head"]


@pytest.mark.workflow
def test_the_workflow_requests_only_labels_of_an_online_study(tmp_path):
    arguments = ("--dry-run", "--cores", "1", "--config", f"study={MINI}")
    output = snakemake(tmp_path, *arguments, "features={online: true}").stdout
    assert "train-labels.npy" in output
    assert "train-pooled.npy" not in output
    assert "train-pooled.npy" in snakemake(tmp_path, *arguments).stdout


@pytest.mark.parametrize("setting", ["dtype", "pooled_dtype"])
def test_online_with_a_type_for_stored_features_is_rejected(setting):
    with pytest.raises(UserError, match=f"{setting} is the data type of stored .*`online` stores nothing"):
        load_study([MINI], {"features": {"online": True, setting: "float16"}})

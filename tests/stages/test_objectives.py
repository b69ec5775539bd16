"""Finetuning with every objective and sampler: all stages of one study, exact resume, and messages."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from mem.errors import UserError
from mem.report.results import from_csv
from mem.runs.dag import Run
from mem.runs.folder import RunFolder, read_record
from mem.tracking.log import read_curve
from tests.stages.interruption import interrupt_finetuning
from tests.stages.running import MINI_VALUES, call_mem, run_study

SHARP: dict[str, Any] = {"label_smoothing": 0.0}
SHARED = {**SHARP, "experts": {"number": 3, "own_from": "blocks.1"}}
VARIANTS: dict[str, dict] = {
    "balanced_softmax": {"objective": "balanced_softmax", "mixup": 0.8, "cutmix": 1.0},
    "logit_adjustment": {"objective": {"name": "logit_adjustment", "tau": 1.5}},
    "lade": {"objective": {"name": "lade", "regulariser_weight": 0.05, "quadratic_weight": 0.5}, **SHARP},
    "balanced_bce": {"objective": {"name": "balanced_bce", "tau": 1.0}},
    "ldam": {
        "objective": {"name": "ldam", "max_margin": 0.5, "reweight_from_epoch": 4, "beta": 0.999},
        "cosine_scale": 20.0,
        **SHARP,
    },
    "class_balanced": {
        "objective": {"name": "class_balanced", "beta": 0.99, "loss": "sigmoid"},
        "sampler": "sqrt",
        **SHARP,
    },
    "focal": {"objective": {"name": "focal", "gamma": 1.0}, "sampler": "class_balanced", **SHARP},
    "paco": {
        "objective": {
            "name": "paco",
            "sample_weight": 0.05,
            "contrast": {
                "queue": 128,
                "width": 8,
                "temperature": 0.2,
                "momentum": 0.9,
                "projector_norm": True,
                "second_view": {"crop_scale": [0.5, 1.0], "flip": False, "color_jitter": [0.4, 0.4, 0.4]},
            },
        },
        "ema_decay": 0.8,
        **SHARP,
    },
    "resampled": {"sampler": "progressive"},
}
OF_EXPERTS: dict[str, dict] = {
    "ncl": {
        "objective": {
            "name": "ncl",
            "hard_classes": 3,
            "mutual_weight": 0.6,
            "contrast": {"queue": 64, "width": 8, "temperature": 0.2, "momentum": 0.9, "projector_norm": False},
            "contrast_weight": 1.0,
        },
        "experts": {"number": 2},
        **SHARP,
    },
    "ride": {
        "objective": {
            "name": "ride",
            "max_margin": 0.5,
            "reweight_from_epoch": 4,
            "beta": 0.999,
            "diversity_weight": 0.2,
            "temperature": 1.0,
            "temperature_prior_weight": 0.05,
        },
        "cosine_scale": 20.0,
        **SHARED,
    },
    "sade": {"objective": {"name": "sade", "tau": 2.0}, **SHARED},
    "ace": {
        "objective": {"name": "ace", "largest_counts": [60, 12], "suppression_weight": 0.01},
        **SHARP,
        "experts": SHARED["experts"] | {"shared_trained_by": "first"},
    },
}
"""Variants with experts, in a study of their own, because their heads cannot use tokens."""
HEADS: dict[str, dict] = {
    name: {"method": "ce" if name == "resampled" else "finetuned", "finetuning": name} for name in VARIANTS
}
TRAINING = MINI_VALUES["heads"]["crt"]["training"]
HEADS["mislas"] = {
    "finetuning": "resampled",
    "smoothing_head": 0.3,
    "smoothing_tail": 0.0,
    "classifier_lr_factor": 0.1,
    "training": TRAINING,
}
HEADS["mem_on_lade"] = MINI_VALUES["heads"]["mem"] | {
    "method": "mem",
    "finetuning": "lade",
    "classifier_from": "lade",
}


def values(**changes) -> dict:
    heads = {"ce": None, **HEADS}
    return copy.deepcopy(MINI_VALUES) | {"study": "objectives", "finetune_variants": VARIANTS, "heads": heads} | changes


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("objectives")


@pytest.fixture(scope="module")
def runs(folder) -> list[Run]:
    """The runs of a study with all objectives, and the finetunings of a study with the objectives of experts."""
    experts = values(
        study="experts",
        finetune_variants=OF_EXPERTS,
        features=MINI_VALUES["features"] | {"tokens": False},
        heads={"ce": None} | {name: {"method": "finetuned", "finetuning": name} for name in OF_EXPERTS},
    )
    finetunings = run_study(folder, experts, ("convert", "pretrain", "finetune"))
    return [*run_study(folder, values()), *finetunings]


def finetune_run(runs: list[Run], name: str | None) -> Run:
    return next(run for run in runs if run.stage == "finetune" and run.labels.get("finetuning") == name)


def test_every_objective_learns_and_its_heads_are_reported(folder, runs):
    rows = from_csv(folder / "results" / "objectives" / "report" / "results.csv")
    on_test = {row.variant: row for row in rows if row.split == "test"}
    assert set(on_test) == {"ce", *HEADS}
    # The loss of `ncl` rises while its queue is filled.
    for name in (None, *VARIANTS, *(n for n in OF_EXPERTS if n != "ncl")):
        losses = [loss for _, loss in read_curve(RunFolder(folder / finetune_run(runs, name).folder).log, "train/loss")]
        assert losses[-1] < losses[0], name
    assert on_test["lade"].method == "finetuned_lade"
    assert on_test["mem_on_lade"].method == "mem"


def test_objectives_lead_to_different_weights(folder, runs):
    def first_block(name: str | None):
        tensors = load_file(folder / finetune_run(runs, name).folder / "model.safetensors")
        return next(value for key, value in tensors.items() if key.endswith("blocks.0.attn.qkv.weight"))

    weights = {name: first_block(name) for name in (None, *VARIANTS, *OF_EXPERTS)}
    names = list(weights)
    for i, name in enumerate(names):
        for other in names[:i]:
            assert not weights[name].equal(weights[other]), (name, other)


@pytest.mark.parametrize("name", ["lade", "ldam", "paco", "resampled", *OF_EXPERTS])
def test_interrupted_finetuning_resumes_bitwise(folder, runs, name, tmp_path, monkeypatch):
    """`ldam` and `ride` are interrupted before they weight samples, and `resampled` samples progressively."""
    run = finetune_run(runs, name)
    expected = load_file(folder / run.folder / "model.safetensors")
    resumed = load_file(interrupt_finetuning(tmp_path, folder, run, 10, monkeypatch) / "model.safetensors")
    assert all(resumed[key].equal(expected[key]) for key in expected)


def test_paco_saves_only_the_classifier(folder, runs):
    plain, paco = (load_file(folder / finetune_run(runs, n).folder / "model.safetensors") for n in (None, "paco"))
    assert paco.keys() == plain.keys()


def test_lade_refuses_micro_batches(tmp_path):
    refused = values(
        study="refused",
        finetune_variants={"lade": VARIANTS["lade"]},
        heads={"lade": HEADS["lade"]},
        compute={"finetune": {"micro_batch": 16}},
        seeds=[1],
    )
    with pytest.raises(UserError, match=r"`lade` computes statistics .*micro_batch is 16; remove micro_batch"):
        run_study(tmp_path, refused, ("convert", "pretrain", "finetune"))


def test_the_plan_and_the_list_of_runs_name_the_finetuning(folder, runs):
    out = call_mem(folder, "plan", "study.yaml").out
    assert "finetune lade" in out
    assert "features ldam" in out
    about = read_record(folder / finetune_run(runs, "lade").folder)
    assert about["labels"]["finetuning"] == "lade"
    listed = json.dumps(about["settings"])
    assert '"name": "lade"' in listed

"""Heads that start from other heads, in chains, and control heads: their stages, and the same heads in Python."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from mem.config import Study
from mem.frozen import fit_head, load_fitted
from mem.heads.build import load_head
from mem.report.results import from_csv
from mem.runs.dag import Run, study_runs
from mem.runs.folder import read_record
from mem.runs.run_config import write_configs
from tests.stages.custom_studies import HEADS, feature_file_study
from tests.stages.running import call_mem, find_run, run_study

TRAINING = HEADS["crt"]["training"]
ADAMW = HEADS["mem"]["training"]
NO_STEPS = ADAMW | {"lr": 1e-9}
CHAIN = {
    # Every head is listed before the head that it starts from.
    "mem": HEADS["mem"] | {"classifier": "frozen", "classifier_from": "tau", "training": NO_STEPS},
    "constants_on_crt_again": {
        "method": "group_constants", "partition": "shot", "constants": "both", "classifier_from": "crt_again",
        "training": NO_STEPS,
    },
    "crt_again": {"method": "crt", "classifier_from": "crt", "training": TRAINING},
    "warm_prior": {"method": "logit_adjusted_loss", "tau": 1.0, "classifier_from": "lws", "training": ADAMW},
    "fusion": {
        "method": "logit_fusion", "partition": "shot", "top_k": 2, "fusion_width": 8, "weight": "additive",
        "classifier": "trained", "classifier_from": "logit_adjustment", "training": ADAMW,
    },
    "block": {
        "method": "block_classifier", "input": "tokens", "width": 8, "depth": 1, "classifier_from": "crt",
        "training": ADAMW | {"sampler": "group_balanced"},
    },
    "logit_adjustment": {"taus": [0.0, 1.0]},
    "lws": HEADS["lws"],
    "crt": HEADS["crt"],
    "tau": HEADS["tau"],
    "ce": HEADS["ce"],
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> tuple[Path, list[Run]]:
    folder = tmp_path_factory.mktemp("controls")
    return folder, run_study(folder, feature_file_study(folder, heads=CHAIN))


def folder_of(finished: tuple[Path, list[Run]], variant: str) -> Path:
    folder, runs = finished
    return folder / find_run(runs, "train_head", variant).folder


def test_every_head_is_evaluated_and_has_an_oracle(finished):
    folder, runs = finished
    rows = from_csv(folder / "results" / "own_features" / "report" / "results.csv")
    assert {row.variant for row in rows} == set(CHAIN)
    for row in rows:
        assert row.oracle_all >= row.all > 60  # chance level: 17 %
    order = [run.labels["variant"] for run in runs if run.stage == "train_head"]
    assert order.index("crt") < order.index("crt_again") < order.index("constants_on_crt_again")


def test_a_head_starts_from_the_result_of_another_head(finished):
    features = torch.from_numpy(np.load(finished[0] / "train.npy"))
    for variant, first in (("mem", "tau"), ("constants_on_crt_again", "crt_again")):
        inputs = features[:, 0]
        logits = [load_head(folder_of(finished, name))(inputs) for name in (variant, first)]
        torch.testing.assert_close(*logits, rtol=1e-3, atol=1e-3)
    weights = [load_head(folder_of(finished, name)).get_parameter("weight") for name in ("crt", "crt_again")]
    assert not torch.equal(*weights)


@pytest.mark.parametrize(
    ("variant", "first"),
    [("crt_again", "crt"), ("warm_prior", "lws"), ("fusion", "logit_adjustment"), ("block", "crt")],
)
def test_the_python_interface_fits_the_same_head_from_the_same_start(finished, variant, first):
    folder = finished[0]
    start = load_fitted(folder_of(finished, first))
    head = fit_head(
        CHAIN[variant], np.load(folder / "train.npy"), np.load(folder / "labels.npy"), classifier=start, quiet=True
    )
    for name, value in load_head(folder_of(finished, variant)).state_dict().items():
        torch.testing.assert_close(head.head.state_dict()[name], value, rtol=1e-3, atol=1e-4)


def test_the_results_of_a_control_contain_its_number_of_parameters(finished):
    numbers = {
        variant: read_record(folder_of(finished, variant))["results"]["parameters"]
        for variant in ("constants_on_crt_again", "crt_again")
    }
    assert numbers == {"constants_on_crt_again": 6, "crt_again": 6 * 8 + 6}


def test_a_missing_name_of_the_initial_head_is_reported(tmp_path):
    values = feature_file_study(tmp_path, heads={"ce": HEADS["ce"], "crt": HEADS["crt"]})
    run_study(tmp_path, values, ["features", "train_head"])
    study = Study.model_validate(values | {"heads": CHAIN})
    runs = study_runs(study)
    write_configs(runs, study, tmp_path)
    run = find_run(runs, "train_head", "crt_again")
    (tmp_path / run.folder / "site.yaml").unlink()
    error = call_mem(tmp_path, "train_head", "--config", str(run.folder / "config.yaml"), status=2).err
    assert "site.yaml: the setting `classifier_from` of this head is missing" in error


def test_mem_plan_knows_the_controls(finished):
    text = call_mem(finished[0], "plan", "study.yaml").out
    assert all(f"train_head {name}" in text for name in CHAIN)

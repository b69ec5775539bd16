"""MLflow runs of a study with `selection`: their names contain the branch, and copied features keep their dataset."""

from __future__ import annotations

import json
from pathlib import Path

from mem.tracking.log import JsonLines
from mem.tracking.run_names import run_name
from tests.tracking.logs import MACHINE, mlflow_run, open_log, send

LABELS = {"order": 0, "seed": 3, "branch": "select"}


def test_the_name_of_a_run_contains_its_branch():
    start = {"stage": "finetune", "backbone": "vit", "settings": {}, "labels": LABELS}
    assert run_name(start) == "finetune (cross-entropy) · vit · select · seed 3"
    head = {"stage": "train_head", "labels": LABELS | {"variant": "crt"}}
    assert run_name(start | head) == "crt · vit · select · seed 3"


def write_log(root: Path, folder: str, inputs: dict[str, str], **labels: str) -> None:
    """Write the log of a finished run that belongs to the branch `select`."""
    stage, key = Path(folder).name.split("-")
    with JsonLines(root / folder / "log.jsonl") as log:
        log.event(
            "start", stage=stage, key=key, dataset="set", backbone="vit", labels=LABELS | labels, seed=3, settings={},
            inputs=inputs, git={"commit": "abc", "dirty": False}, machine=MACHINE, versions={},
        )  # fmt: skip
        log.event("end", status="finished")


def test_copied_features_are_nested_in_the_features_that_they_are_copied_from(root):
    features = "runs/set/vit/features-000000000004"
    open_log(root, "convert").close()
    manifest = root / "runs" / "set" / "data" / "convert-000000000001" / "dataset.json"
    splits = {"train": {"images": 3}}
    manifest.write_text(json.dumps({"classes": ["a"], "splits": splits, "groups": {"many": 1}, "imbalance": 1.0}))
    write_log(root, features, {"images": "runs/set/data/convert-000000000001"})
    send(root)
    complete = mlflow_run(root, "features")
    part = "runs/set/vit/features-00000000000a"
    write_log(root, part, {"features": features})
    write_log(root, "runs/set/vit/train_head-00000000000b", {"features": part}, variant="crt", method="crt")
    send(root)
    head = mlflow_run(root, "train_head")
    assert [given.dataset.name for given in head.inputs.dataset_inputs] == [
        given.dataset.name for given in complete.inputs.dataset_inputs
    ]
    assert len(head.inputs.dataset_inputs) == 1
    copied = mlflow_run(root, "features", filter_string="tags.config_digest = '00000000000a'")
    assert copied.data.tags["mlflow.parentRunId"] == complete.info.run_id
    assert "mlflow.parentRunId" not in head.data.tags


def test_learning_the_weights_of_experts_is_nested_in_their_finetuning(root):
    finetune = "runs/set/vit/finetune-000000000003"
    write_log(root, finetune, {})
    features = "runs/set/vit/features-000000000004"
    write_log(root, "runs/set/vit/adapt-000000000005", {"features": features, "classifier": finetune})
    send(root)
    assert mlflow_run(root, "adapt").data.tags["mlflow.parentRunId"] == mlflow_run(root, "finetune").info.run_id

"""A synthetic study: the files that the report reads, written without running any stage."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import yaml

from mem.cli.main import main
from mem.config import Evaluate, Study
from mem.config.load import load_study
from mem.metrics import best_in_group
from mem.metrics.predictions import PREDICTIONS_FILE, PredictionMetadata, Predictions, write_predictions
from mem.metrics.scores import split_scores
from mem.report.results import ScoreRow
from mem.runs.dag import Run, study_runs
from mem.runs.run_config import write_configs
from tests.conftest import REPOSITORY

COUNTS = (110, 105, 102, 60, 40, 25, 22, 12, 8, 5)
SHOTS = (0, 0, 0, 1, 1, 1, 1, 2, 2, 2)


def study_of(folder: Path, **changes: object) -> Study:
    """Write the mini study with the given changes to a file in the folder, and load the study."""
    values = yaml.safe_load((REPOSITORY / "tests" / "mini.yaml").read_text()) | changes
    (folder / "study.yaml").write_text(yaml.safe_dump(values))
    return load_study([folder / "study.yaml"])


def write_runs(
    folder: Path, study: Study, *, gain: dict[str, float] | None = None, without_few: bool = False
) -> list[Run]:
    """Write the files that the report reads from every run of a study. Accuracies are 60 % plus the head's gain."""
    runs = study_runs(study)
    write_configs(runs, study, folder)
    for run in runs:
        if run.stage == "report":
            continue
        results: dict[str, object] = {"images_per_s": 100.0}
        at = folder / run.folder
        if run.stage == "convert":
            split = {"images": sum(COUNTS), "counts": list(COUNTS)}
            groups = {"many": 3, "medium": 4, "few": 3}
            results = {"splits": dict.fromkeys(("train", "val", "test"), split), "imbalance": 22.0, "groups": groups}
            results["classes"] = [str(k) for k in range(10)]
        (at / "log.jsonl").write_text("")
        if run.stage == "evaluate":
            _write_evaluation(
                at, run, 0.6 + (gain or {}).get(str(run.labels["variant"]), 0.0), without_few, study.evaluate
            )
        record = {
            "stage": run.stage,
            "key": run.key,
            "dataset": run.dataset,
            "backbone": run.backbone,
            "labels": dict(run.labels),
            "inputs": {name: str(parent.folder) for name, parent in run.inputs.items()},
            "compute": {"nodes": 1, "gpus_per_node": 0},
            "git": {"commit": "0" * 40, "dirty": False},
            "versions": {"torch": "2"},
            "machine": {"host": "here"},
            "seconds": 36.0,
            "attempts": 1,
            "peak_memory_gb": 1.0,
            "results": results,
        }
        (at / "run.json").write_text(json.dumps(record))
    return runs


def _write_evaluation(at: Path, run: Run, accuracy: float, without_few: bool, evaluate: Evaluate | None) -> None:
    shots = np.array(SHOTS)
    mem = run.labels["method"] == "mem"
    about = PredictionMetadata(
        run.dataset, str(run.labels["variant"]), "0" * 12, "many>100 few<20", SHOTS, SHOTS if mem else None
    )
    # The labels depend only on the class order. Heads with the same class order and seed use the same noise.
    images = np.random.default_rng(int(run.labels["order"]))
    noise = np.random.default_rng([int(run.labels["order"]), int(run.labels["seed"])])
    labels = images.permutation(np.arange(200) % (7 if without_few else 10))
    logits = noise.random((200, 10))
    logits[np.arange(200), labels] += np.where(noise.random(200) < accuracy, 1.0, -1.0)
    top = np.argsort(-logits, axis=1)[:, :5]
    norms = noise.random((200, 3), dtype=np.float32) + 2 * (shots[labels][:, None] == np.arange(3))
    split = Predictions(
        labels=labels,
        predictions=top[:, 0],
        top=top,
        top_probabilities=np.full((200, 5), 0.2, dtype=np.float32),
        best_in_shot=best_in_group(logits, shots, 3),
        weights=norms.astype(np.float32) if mem else None,
        norms=norms.astype(np.float32) if mem else None,
    )
    splits = {"val": split, "test": split}
    write_predictions(at / PREDICTIONS_FILE, about, splits)
    scores = {name: split_scores(each, about) for name, each in splits.items()}
    content: dict[str, object] = {"thresholds": about.thresholds, "class_counts": list(COUNTS), "splits": scores}
    content |= {} if evaluate is None else {"crops": evaluate.crops.model_dump()}
    (at / "metrics.json").write_text(json.dumps(content))


def write_report(folder: Path, study: Study, **options) -> Path:
    """Write the runs of a study, run the report stage, and return the results folder."""
    runs = write_runs(folder, study, **options)
    before = Path.cwd()
    os.chdir(folder)
    try:
        assert main(["report", "--config", str(runs[-1].folder)]) == 0
    finally:
        os.chdir(before)
    return folder / "results" / study.study


def mem_grid(variants: int) -> dict[str, object]:
    """Return changes that add the given number of MEM heads to a study. The heads vary two settings."""
    xis: Sequence[float] = [20.0 + 5 * i for i in range(variants // 2)]
    return {"sweeps": {"xi": {"of": "mem", "over": {"xi": list(xis), "weight": ["free", "additive"]}}}}


def rows_of_two_seeds(
    study: str, dataset: str, backbone: str, *, method: str | None = None, finetuning: str = "", **accuracies: float
) -> list[ScoreRow]:
    """Return rows on test for two seeds that differ by one point.

    Args:
        study: Name of the study.
        dataset: Name of the dataset.
        backbone: Name of the backbone.
        method: Method of the heads. Default: the part of the head's name before the first underscore.
        finetuning: Variant of finetuning that the heads use.
        accuracies: Accuracy of each head.
    """
    return [
        ScoreRow(
            study=study,
            dataset=dataset,
            backbone=backbone,
            method=method or name.partition("_")[0],
            variant=name,
            seed=seed,
            order=0,
            split="test",
            thresholds="many>100 few<20",
            many=accuracy,
            medium=accuracy,
            few=accuracy,
            all=accuracy + seed,
            key="k",
            finetuning=finetuning,
        )
        for name, accuracy in accuracies.items()
        for seed in (0, 1)
    ]

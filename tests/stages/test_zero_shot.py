"""The zero-shot classifier of a study with a frozen backbone, and heads that start from it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from mem.config import ZeroShot
from mem.config.load import load_study
from mem.data.features.stored import open_split
from mem.heads.build import load_head
from mem.jobs.class_vectors import head_vectors
from mem.metrics.predictions import read_predictions
from mem.runs.dag import study_runs
from tests.config.studies import error_message, write_study
from tests.data.test_class_names import WORDS
from tests.export.conftest import FinishedStudy
from tests.stages.running import MINI_VALUES, find_run, job_of, run_study
from tests.stages.text_model import (
    NAME,
    PROMPTS,
    TEXT_WEIGHTS,
    clip_values,
    expected_rows,
    load_text_model,
    text_embeddings,
    write_clip_files,
)

pytestmark = pytest.mark.stage
CRT = MINI_VALUES["heads"]["crt"]
ZERO_SHOT = {
    "method": "zero_shot",
    "scale": 100,
    "embeddings": text_embeddings(Path()),
}
HEADS = {
    "zero_shot": ZERO_SHOT,
    "crt": {**CRT, "classifier_from": "zero_shot"},
    "adjusted": {"method": "logit_adjustment", "taus": [1.0], "classifier_from": "zero_shot"},
    "mem": MINI_VALUES["heads"]["mem"] | {"classifier_from": "zero_shot", "classifier": "frozen"},
}
VALUES = clip_values(Path()) | {"finetune": None, "heads": HEADS}


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FinishedStudy:
    folder: Path = tmp_path_factory.mktemp("zero-shot")
    write_clip_files(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)  # the digests of the files are part of the keys
        runs = run_study(folder, VALUES, ("convert", "features", "train_head", "evaluate"))
    return FinishedStudy(folder, runs)


def test_the_logits_are_those_of_the_clip_model(finished):
    test = open_split(finished.run("features"), "test")
    features = test.inputs(0, np.arange(len(test)), tokens=False)
    head = load_head(finished.run("train_head", "zero_shot"))
    weights = finished.folder / TEXT_WEIGHTS
    model = load_text_model(weights)
    images = F.normalize(features @ model.visual.proj.detach(), dim=1)  # type: ignore[union-attr]
    rows = [F.normalize(model.encode_text(tokens), dim=1) for tokens in _tokens()]  # type: ignore[operator]
    texts = F.normalize(torch.stack(rows).mean(dim=0), dim=1).detach()
    torch.testing.assert_close(head(features), 100 * images @ texts.T, rtol=1e-4, atol=1e-3)
    start = head.as_start()
    assert start is not None
    torch.testing.assert_close(F.normalize(start.weight, dim=1), expected_rows(weights, WORDS), rtol=1e-4, atol=1e-5)


def _tokens() -> list[torch.Tensor]:
    """Return the tokens of all names for each prompt."""
    import open_clip

    tokenizer = open_clip.get_tokenizer(NAME)
    return [tokenizer([prompt.format(name) for name in WORDS]) for prompt in PROMPTS]


def test_other_heads_start_from_the_classifier(finished):
    start = load_head(finished.run("train_head", "zero_shot")).as_start()
    adjusted = load_head(finished.run("train_head", "adjusted")).as_linear()
    assert start is not None and adjusted is not None
    assert torch.equal(adjusted.weight, start.weight)
    assert adjusted.bias is not None and len(set(adjusted.bias.tolist())) > 1
    memory = load_head(finished.run("train_head", "mem")).state_dict()
    assert any(value.shape == start.weight.shape and torch.equal(value, start.weight) for value in memory.values())


def test_a_features_run_of_a_part_of_the_images_has_the_classes_and_the_projection_of_the_complete_one(
    finished, tmp_path, monkeypatch
):
    monkeypatch.chdir(finished.folder)
    (tmp_path / "run.json").write_text(json.dumps({"inputs": {"features": str(finished.run("features"))}}))
    job = job_of(finished.folder, find_run(finished.runs, "train_head", "zero_shot"))
    settings = ZeroShot.model_validate(ZERO_SHOT)
    complete, part = (head_vectors(each, settings) for each in (job, replace(job, inputs={"features": tmp_path})))
    assert torch.equal(part.embeddings, complete.embeddings)
    assert part.projection is not None and complete.projection is not None
    assert torch.equal(part.projection, complete.projection)


def test_each_head_is_evaluated(finished):
    for name in HEADS:
        path = finished.run("evaluate", name) / "predictions.parquet"
        assert len(read_predictions(path)[1]["test"].labels) == 200


def test_the_key_of_a_head_contains_the_digest_of_its_file(finished, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = write_study(tmp_path, VALUES)

    def key() -> str:
        return find_run(study_runs(load_study([path])), "train_head", "zero_shot").key

    first = key()
    (tmp_path / TEXT_WEIGHTS).parent.mkdir()
    (tmp_path / TEXT_WEIGHTS).write_bytes(b"other")
    assert key() != first


def with_head(**settings: object) -> dict:
    return {"heads": {"head": settings}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"finetune": MINI_VALUES["finetune"]},
            "heads.zero_shot.method: `zero_shot` compares class embeddings with the features of the unchanged backbone",
        ),
        (
            {"initial": None},
            "heads.zero_shot.embeddings: text features are comparable only with the features of a backbone",
        ),
        ({"pretrain": MINI_VALUES["pretrain"]}, "set `initial` to the weights of a CLIP model, and pretrain to null"),
        (
            {
                "pretrain": MINI_VALUES["pretrain"],
                "finetune": {**MINI_VALUES["finetune"], "initial_classifier": text_embeddings(Path())},
                "heads": {"ce": None},
            },
            "finetune.initial_classifier: text features are comparable only with the features of a backbone",
        ),
        (with_head(**{**HEADS["adjusted"], "classifier_from": "x"}), "this study has no head `x`"),
        (with_head(method="logit_adjustment", taus=[1.0]), "heads.head: starts from a classifier, but nothing"),
        (with_head(**{**ZERO_SHOT, "embeddings": {"source": "file"}}), "`heads.head.embeddings.file` is missing"),
        (with_head(**{**ZERO_SHOT, "embeddings": {"source": "class_means"}}), "Expected one of: text, file"),
    ],
)
def test_studies_in_which_the_classifier_has_no_meaning_are_refused(tmp_path, changes, message):
    assert message in error_message(tmp_path, {**VALUES, **changes})

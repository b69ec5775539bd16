"""Features of a tuned backbone are shared by studies that differ only in heads, and not by other tuners."""

from __future__ import annotations

import copy

from mem.config import Study
from mem.runs.dag import Run, study_runs
from tests.stages.running import MINI_VALUES


def runs_of(tuner: object = None, **heads: object) -> dict[str, Run]:
    """Return the conversion, pretraining, finetuning and features runs of a study, by stage."""
    values = copy.deepcopy(MINI_VALUES)
    values["heads"] = heads or {"ce": None}
    if tuner is not None:
        values["finetune"]["tuner"] = tuner
    return {run.stage: run for run in study_runs(Study.model_validate(values)) if "variant" not in run.labels}


def test_studies_that_differ_only_in_heads_share_the_features_of_the_tuned_backbone():
    tuner = {"name": "adaptformer", "width": 4, "scale": 0.1}
    crt = {"training": MINI_VALUES["heads"]["crt"]["training"]}
    assert runs_of(tuner)["features"].key == runs_of(tuner, ce=None, crt=crt)["features"].key


def test_another_tuner_has_other_features_from_the_same_encoder():
    tuners = (None, "bias", {"name": "vpt", "tokens": 2, "deep": False}, {"name": "vpt", "tokens": 3, "deep": False})
    found = [runs_of(tuner) for tuner in tuners]
    assert len({runs["features"].key for runs in found}) == len(tuners)
    assert len({runs["pretrain"].key for runs in found}) == 1
    assert runs_of("all")["features"].key == found[0]["features"].key

"""The best head of a study is selected on val, never on test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mem.config import Study
from mem.errors import UserError
from mem.export.best_head import best_head
from mem.runs.dag import study_runs
from tests.stages.running import ADAPTED, MINI_VALUES, find_run

SCORES = {"ce": (10.0, 99.0), "crt": (30.0, 1.0), "mem": (20.0, 50.0), "mem_on_crt": (25.0, 70.0)}
"""Mean per-class accuracy of each head on val and test."""
WITH_ADAPT = MINI_VALUES | {
    "pretrain": None,
    "finetune": MINI_VALUES["finetune"] | ADAPTED["finetune"],
    "features": MINI_VALUES["features"] | {"tokens": False},
    "adapt": ADAPTED["adapt"],
    "heads": {"ce": None, "sade": {"method": "sade_aggregation"}},
}


@pytest.fixture
def study() -> Study:
    heads = {name: MINI_VALUES["heads"][name] for name in SCORES}
    return Study.model_validate(MINI_VALUES | {"heads": heads})


def write_scores(
    study: Study, root: Path, scores: dict[str, dict[str, float]], all_images: dict[str, float] | None = None
) -> list[Path]:
    """Write the part of each evaluation's `metrics.json` that the selection reads, and the share of correct images."""
    paths = []
    for variant, by_split in scores.items():
        folder = root / find_run(study_runs(study), "evaluate", variant).folder
        folder.mkdir(parents=True, exist_ok=True)
        splits = {
            split: {"accuracy": {"all": (all_images or {}).get(variant, balanced)}, "balanced": balanced}
            for split, balanced in by_split.items()
        }
        paths.append(folder / "metrics.json")
        paths[-1].write_text(json.dumps({"splits": splits}))
    return paths


def test_the_head_with_the_highest_accuracy_on_val_is_selected(study, tmp_path):
    write_scores(study, tmp_path, {name: {"val": val, "test": test} for name, (val, test) in SCORES.items()})
    selected = best_head(study, tmp_path)
    assert selected.run.labels["variant"] == "crt"
    assert selected.reason == "crt, the best of 4: mean per-class accuracy on val 30.00 %"
    reason = best_head(study, tmp_path, "ce").reason
    assert reason == "ce, selected with --head: mean per-class accuracy on val 10.00 %"


def test_in_a_tie_the_first_run_is_selected_as_in_the_report(tmp_path):
    """crt is run before mem_on_crt, which starts from it and precedes it in the study."""
    heads = {name: MINI_VALUES["heads"][name] for name in ("ce", "mem_on_crt", "crt")}
    study = Study.model_validate(MINI_VALUES | {"heads": heads})
    write_scores(study, tmp_path, {"ce": {"val": 10.0}, "mem_on_crt": {"val": 20.0}, "crt": {"val": 20.0}})
    assert best_head(study, tmp_path).run.labels["variant"] == "crt"


def test_on_a_val_split_with_a_long_tail_the_share_of_correct_images_does_not_decide(study, tmp_path):
    all_images = {"ce": 90.0, "crt": 60.0, "mem": 50.0, "mem_on_crt": 40.0}
    write_scores(study, tmp_path, {name: {"val": val} for name, (val, _) in SCORES.items()}, all_images)
    assert best_head(study, tmp_path).run.labels["variant"] == "crt"


def test_the_reason_contains_the_standard_error(study, tmp_path):
    paths = write_scores(study, tmp_path, {name: {"val": val} for name, (val, _) in SCORES.items()})
    for path in paths:
        content = json.loads(path.read_text())
        content["splits"]["val"]["balanced_se"] = 1.25
        path.write_text(json.dumps(content))
    reason = best_head(study, tmp_path).reason
    assert reason == "crt, the best of 4: mean per-class accuracy on val 30.00 % (standard error 1.25)"


def test_an_unknown_head_is_refused(study, tmp_path):
    with pytest.raises(UserError, match=r"has no head lws\. Available heads: ce, crt, mem, mem_on_crt"):
        best_head(study, tmp_path, "lws")


def test_without_a_val_split_the_head_must_be_named(study, tmp_path):
    write_scores(study, tmp_path, {name: {"test": test} for name, (_, test) in SCORES.items()})
    with pytest.raises(UserError, match="has no val split to select a head on, and test must not be used"):
        best_head(study, tmp_path)
    selected = best_head(study, tmp_path, "ce")
    assert selected.run.labels["variant"] == "ce"
    assert selected.reason == "ce, selected with --head; there is no val split"


def test_a_transductive_head_is_never_selected_on_val(tmp_path):
    study = Study.model_validate(WITH_ADAPT)
    write_scores(study, tmp_path, {"ce": {"val": 10.0}, "sade": {"val": 90.0}})
    assert best_head(study, tmp_path).run.labels["variant"] == "ce"
    assert best_head(study, tmp_path, "sade").run.labels["variant"] == "sade"
    only = study.model_copy(update={"heads": {"sade": study.heads["sade"]}})
    with pytest.raises(UserError, match="only transductive heads"):
        best_head(only, tmp_path)


def test_the_reason_says_that_a_transductive_head_has_no_score_in_a_study_that_selects(tmp_path):
    dataset = {**MINI_VALUES["dataset"], "cut": {**MINI_VALUES["dataset"]["cut"], "val_per_class": 0}}
    with_selection = WITH_ADAPT | {"dataset": dataset, "selection": {"holdout": {"share": 0.2, "seed": 0}}}
    for changes, cause in (
        (with_selection, "transductive, so it has no score on val"),
        (WITH_ADAPT | {"dataset": dataset}, "there is no val split"),
    ):
        study = Study.model_validate(changes)
        write_scores(study, tmp_path, {"sade": {"test": 50.0}})
        assert best_head(study, tmp_path, "sade").reason == f"sade, selected with --head; {cause}"


def test_a_missing_evaluation_is_reported(study, tmp_path):
    paths = write_scores(study, tmp_path, {name: {"val": val} for name, (val, _) in SCORES.items()})
    paths[0].unlink()
    with pytest.raises(UserError, match=r"metrics\.json: no such file\. Run the study first"):
        best_head(study, tmp_path)

"""The stage `adapt`, the heads on experts that use it, RIDE's router and heads per expert, in a small study."""

from __future__ import annotations

import csv
import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mem.config.load import load_study
from mem.data.beton.reader import Beton
from mem.errors import UserError
from mem.export.best_head import best_head
from mem.export.exported_model import export_head, open_model
from mem.export.formats import ExportOptions, export
from mem.heads.build import load_classifier, load_head
from mem.heads.ensemble import ExpertEnsemble
from mem.metrics.predictions import read_predictions
from mem.report.terminal import study_summary
from mem.runs.dag import study_runs
from mem.stages import adapt as adapt_stage
from mem.tracking.log import read_events
from mem.tracking.run_description import run_params, run_tags
from tests.export.conftest import FinishedStudy
from tests.stages.running import MINI_VALUES, call_mem, find_run, run_study
from tests.train.training import Stop

pytestmark = pytest.mark.stage
EXPERTS = 3
TRAINING = MINI_VALUES["heads"]["crt"]["training"]
MEM = {**MINI_VALUES["heads"]["mem"], "method": "mem", "per_expert": True}
ADAPT = {
    "epochs": 5, "global_batch": 48, "lr": 20.0, "momentum": 0.9, "nesterov": True, "weight_decay": 5.0e-4,
    "stop_below": 0.001, "augmentation": {"crop_scale": [0.3, 1.0], "flip": False, "color_jitter": [0.4, 0.4, 0.4]},
}  # fmt: skip
HEADS = {
    "ce": None,
    "crt_per_expert": {"method": "crt", "per_expert": True, "training": TRAINING},
    "lws": {"per_expert": True, "training": TRAINING},
    "mem_on_experts": MEM,
    "mem_on_crt": {**MEM, "classifier_from": "crt_per_expert"},
    "router": {
        "method": "ride_router", "top_logits": 5, "hidden_width": 16, "positive_weight": 100.0, "threshold": 0.5,
        "training": TRAINING,
    },
    "sade": {"method": "sade_aggregation"},
}  # fmt: skip
SHOTS = ("many", "medium", "few", "all")


def study_values(**changes: Any) -> dict[str, Any]:
    finetune = MINI_VALUES["finetune"] | {"epochs": 2, "experts": {"number": EXPERTS, "own_from": "blocks.1"}}
    return MINI_VALUES | {
        "study": "adapted", "pretrain": None, "finetune": finetune, "adapt": ADAPT, "heads": HEADS, "compute": {},
        "features": MINI_VALUES["features"] | {"tokens": False}, **changes,
    }  # fmt: skip


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> FinishedStudy:
    folder = tmp_path_factory.mktemp("adapted")
    return FinishedStudy(folder, run_study(folder, study_values()))


def read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text())


class _Tables(HTMLParser):
    """Collects the cells of all tables of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[list[list[str]]] = []
        self._in_cell = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._in_cell = tag in ("th", "td")
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif self._in_cell:
            self.tables[-1][-1].append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_cell = False

    def handle_data(self, data: str) -> None:
        if self._in_cell:
            self.tables[-1][-1][-1] += data.replace("\N{NO-BREAK SPACE}", " ")


def tables_of_page(page: str) -> list[list[list[str]]]:
    """Return the lines of cells of every table of an HTML page, the header first."""
    parser = _Tables()
    parser.feed(page)
    return parser.tables


def adapt_again(finished: FinishedStudy, folder: Path) -> Path:
    """Copy the runs that `adapt` reads and its configuration to another folder, and return its run folder there."""
    adapt = finished.run("adapt")
    for run in finished.runs:
        if run.stage in ("convert", "finetune", "features"):
            shutil.copytree(finished.folder / run.folder, folder / run.folder)
    copy = folder / adapt.relative_to(finished.folder)
    copy.mkdir(parents=True)
    for name in ("config.yaml", "site.yaml"):
        shutil.copy(adapt / name, copy / name)
    return copy


def call_adapt(folder: Path, run: Path, status: int = 0) -> str:
    return call_mem(folder, "adapt", "--config", str(run.relative_to(folder) / "config.yaml"), status=status).err


# --- the weights ------------------------------------------------------------------------------------------------------


def test_the_weights_are_learned_and_recorded(finished):
    content = read(finished.run("adapt") / "weights.json")
    weights = np.array(content["weights"])
    assert weights.shape == (EXPERTS,)
    assert weights.sum() == pytest.approx(1, abs=1e-5)
    assert np.abs(weights - 1 / EXPERTS).max() > 1e-3
    assert content["transductive"] is True
    assert content["images"] == 200
    assert (content["steps"], content["ended_early"]) == (21, False)
    results = read(finished.run("adapt") / "run.json")["results"]
    assert {name: results[name] for name in content} == content
    assert results["images_per_s"] > 0
    logged = [event for event in read_events(finished.run("adapt") / "log.jsonl") if event["event"] == "metrics"]
    assert any("train/similarity" in event["metrics"] for event in logged)


def test_permuted_test_labels_give_the_same_weights(finished, tmp_path, monkeypatch):
    run = adapt_again(finished, tmp_path)
    permuted: list[int] = []
    read_beton = Beton.__init__

    def with_other_labels(self: Beton, path: Path) -> None:
        read_beton(self, path)
        if path.name == "test.beton":
            self.labels = self.labels[np.random.default_rng(0).permutation(len(self.labels))]
            permuted.append(len(self.labels))

    monkeypatch.setattr(Beton, "__init__", with_other_labels)
    call_adapt(tmp_path, run)
    assert 200 in permuted
    assert (run / "weights.json").read_bytes() == (finished.run("adapt") / "weights.json").read_bytes()


def test_an_interrupted_run_resumes_and_gives_the_same_weights(finished, tmp_path, monkeypatch):
    run = adapt_again(finished, tmp_path)
    fit = adapt_stage.fit

    def interrupted(state, data, objective, schedule, context, options):
        return fit(state, data, objective, schedule, replace(context, stop=Stop(state, after=10)), options)

    monkeypatch.setattr(adapt_stage, "fit", interrupted)
    message = call_adapt(tmp_path, run, status=143)
    assert "Saved at step 10 of 21" in message
    assert not (run / "weights.json").exists()
    monkeypatch.undo()
    assert "Resuming from the checkpoint at step 10 of 21" in call_adapt(tmp_path, run)
    assert (run / "weights.json").read_bytes() == (finished.run("adapt") / "weights.json").read_bytes()


def test_learning_ends_after_the_epoch_in_which_a_weight_is_too_small(finished, tmp_path):
    shutil.copytree(finished.folder / "runs", tmp_path / "runs")
    values = study_values(adapt=ADAPT | {"stop_below": 0.3333})
    early = FinishedStudy(tmp_path, run_study(tmp_path, values, ("convert", "finetune", "features", "adapt")))
    content = read(early.run("adapt") / "weights.json")
    assert content["ended_early"] is True
    assert content["steps"] == 5  # the first step after which 200 images have been used
    assert min(content["weights"]) < 0.3333


# --- the head and its marks -------------------------------------------------------------------------------------------


def test_the_head_is_the_weighted_mean_of_the_experts(finished):
    features = torch.from_numpy(np.load(finished.run("features") / "test-pooled.npy")[0]).flatten(1)
    ensemble = load_classifier(finished.run("features") / "classifier.safetensors")
    assert isinstance(ensemble, ExpertEnsemble)
    weights = torch.tensor(read(finished.run("adapt") / "weights.json")["weights"])
    expected = torch.einsum("nec,e->nc", ensemble.expert_logits(features), weights)
    torch.testing.assert_close(load_head(finished.run("train_head", "sade"))(features), expected)
    predictions = read_predictions(finished.run("evaluate", "sade") / "predictions.parquet")[1]["test"]
    assert predictions.predictions.tolist() == expected.argmax(dim=1).tolist()


def test_every_result_is_marked_transductive(finished):
    for stage, variant in (("adapt", None), ("train_head", "sade"), ("evaluate", "sade")):
        record = read(finished.run(stage, variant) / "run.json")
        assert record["results"]["transductive"] is True
        assert record["labels"]["transductive"] == "yes"
    assert read(finished.run("evaluate", "sade") / "metrics.json")["transductive"] is True
    assert "transductive" not in (finished.run("evaluate", "ce") / "metrics.json").read_text()
    assert "transductive" not in (finished.run("evaluate", "ce") / "run.json").read_text()


def test_the_report_marks_the_head_in_every_table(finished):
    report = finished.folder / "results" / "adapted" / "report"
    with open(report / "results.csv", newline="") as file:
        marks = {line["variant"]: line["transductive"] for line in csv.DictReader(file)}
    assert marks == {name: str(name == "sade") for name in HEADS}
    marked_tables = 0
    for header, *lines in tables_of_page((report / "index.html").read_text()):
        if "run" in header or "folder" in header:  # Tables of runs, which contain no scores.
            continue
        named = [cell for line in lines for cell in line if re.search(r"(?<![\w.])sade(?!\w)", cell)]
        assert all("sade (transductive)" in cell for cell in named), (header, named)
        assert not any("transductive" in cell for cell in header)
        marked_tables += bool(named)
    assert marked_tables >= 6  # Test, val, differences, other scores, oracle and recall.
    for file in (report / "table.md", finished.folder / "results" / "adapted" / "tables" / "table1.md"):
        names = [cell.strip() for line in file.read_text().splitlines() for cell in line.split("|")]
        assert "sade" not in names
        assert "sade (transductive)" in names
    assert "sade (transductive)" in study_summary("adapted", finished.folder)


def test_mlflow_shows_the_mark_as_tag_and_param(finished):
    for stage in ("adapt", "train_head"):
        variant = "sade" if stage == "train_head" else None
        start = next(e for e in read_events(finished.run(stage, variant) / "log.jsonl") if e["event"] == "start")
        assert run_tags("id", "folder", start)["transductive"] == "yes"
        assert run_params(start)["transductive"] == "yes"


def test_the_exported_model_is_marked_and_predicts_as_evaluated(finished, tmp_path):
    export(finished.run("train_head", "sade"), tmp_path / "out", ExportOptions(program=False))
    assert read(tmp_path / "out" / "export.json")["transductive"] is True
    assert "transductive: true" in (tmp_path / "out" / "mlflow" / "MLmodel").read_text()
    assert open_model(tmp_path / "out").about["transductive"] is True
    other = export_head(finished.run("train_head", "ce"), tmp_path / "ce")
    assert "transductive" not in other.about


def test_the_best_head_is_never_transductive_unless_it_is_named(finished):
    study = load_study([finished.folder / "study.yaml"])
    path = finished.run("evaluate", "sade") / "metrics.json"
    content = path.read_text()
    changed = json.loads(content)
    changed["splits"]["val"]["balanced"] = 100.0
    path.write_text(json.dumps(changed))
    try:
        assert best_head(study, finished.folder).run.labels["variant"] != "sade"
        assert best_head(study, finished.folder, "sade").run.labels["variant"] == "sade"
        only = study.model_copy(update={"heads": {"sade": study.heads["sade"]}})
        with pytest.raises(UserError, match="only transductive heads"):
            best_head(only, finished.folder)
    finally:
        path.write_text(content)


def test_a_branch_without_test_images_has_no_transductive_head(tmp_path):
    dataset = {**MINI_VALUES["dataset"], "cut": {**MINI_VALUES["dataset"]["cut"], "val_per_class": 0}}
    values = study_values(dataset=dataset, selection={"holdout": {"share": 0.2, "seed": 0}})
    path = tmp_path / "study.yaml"
    path.write_text(json.dumps(values))
    runs = study_runs(load_study([path]))
    branches = {run.labels.get("branch") for run in runs if run.labels.get("variant") == "sade"}
    assert branches == {"refit"}
    assert [run.labels.get("branch") for run in runs if run.stage == "adapt"] == ["refit"]


# --- other heads on experts -------------------------------------------------------------------------------------------


def test_the_router_reports_the_number_of_experts(finished):
    folder = finished.run("evaluate", "router")
    used = read_predictions(folder / "predictions.parquet")[1]["test"].experts_used
    assert used is not None
    assert set(used.tolist()) <= set(range(1, EXPERTS + 1))
    scores = read(folder / "metrics.json")["splits"]["test"]["experts_used"]
    assert tuple(scores) == SHOTS
    assert scores["all"] == pytest.approx(used.mean(), abs=1e-4)
    assert read(folder / "run.json")["results"]["experts_used"]["test"] == scores
    page = (finished.folder / "results" / "adapted" / "report" / "index.html").read_text()
    assert "Number of experts used" in page


def test_mem_on_experts_is_evaluated_with_the_norms_of_all_experts(finished):
    for variant in ("mem_on_experts", "mem_on_crt"):
        folder = finished.run("evaluate", variant)
        about, splits = read_predictions(folder / "predictions.parquet")
        assert about.group_of_class is not None
        assert splits["test"].norms is not None
        assert {"group_by_norm", "norms", "group_by_class"} <= set(read(folder / "metrics.json")["splits"]["test"])
    assert "Norms of MEM" in (finished.folder / "results" / "adapted" / "report" / "index.html").read_text()


def test_a_head_per_expert_starts_from_the_classifiers_of_another_one(finished):
    start = load_head(finished.run("train_head", "crt_per_expert"))
    found = load_head(finished.run("train_head", "mem_on_crt"))
    weights = zip(found.get_submodule("heads"), start.get_submodule("heads"), strict=True)  # type: ignore[arg-type]
    for head, classifier in weights:
        # Two epochs with a small learning rate move the classifier, but not far from its start.
        difference = (head.classifier.weight - classifier.weight).norm() / classifier.weight.norm()
        assert 0 < difference.item() < 0.3


@pytest.mark.parametrize(("variant", "parts"), [("crt_per_expert", EXPERTS), ("mem_on_experts", EXPERTS)])
def test_an_exported_head_per_expert_predicts_as_evaluated(finished, variant, parts, tmp_path):
    model = export_head(finished.run("train_head", variant), tmp_path / "out")
    images = torch.from_numpy(np.stack(finished.test_images(20)))
    assert len(model.classifier.head.get_submodule("heads")) == parts  # type: ignore[arg-type]
    found = model.classifier(images)["probabilities"].argmax(dim=1)
    saved = read_predictions(finished.run("evaluate", variant) / "predictions.parquet")[1]["test"]
    assert found.tolist() == saved.predictions[:20].tolist()


def test_the_exported_program_of_the_router_takes_any_number_of_images(finished, tmp_path):
    export(finished.run("train_head", "router"), tmp_path / "out", ExportOptions(mlflow=False))
    program = torch.export.load(tmp_path / "out" / "program.pt2").module()
    images = torch.from_numpy(np.stack(finished.test_images(5)))
    expected = open_model(tmp_path / "out").classifier(images)["probabilities"]
    for number in (1, 5):
        torch.testing.assert_close(program(images[:number])["probabilities"], expected[:number])


# --- bad input --------------------------------------------------------------------------------------------------------


def test_a_batch_with_more_images_than_test_is_reported(finished, tmp_path):
    shutil.copytree(finished.folder / "runs", tmp_path / "runs")
    values = study_values(adapt=ADAPT | {"global_batch": 500})
    (tmp_path / "study.yaml").write_text(json.dumps(values))
    run = find_run(study_runs(load_study([tmp_path / "study.yaml"])), "adapt")
    call_mem(tmp_path, "runs", "study.yaml", "--write")
    message = call_mem(tmp_path, "adapt", "--config", str(run.folder / "config.yaml"), status=2).err
    assert "the test split has only 200 images, but adapt.global_batch is 500" in message

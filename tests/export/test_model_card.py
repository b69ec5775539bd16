"""The model card of timm's form: what it says about data, scores, weights and training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results

from mem.export.lineage import Lineage
from mem.export.model_card import model_card
from mem.export.model_facts import ModelFacts, facts_of
from tests.export.classifiers import VIT, about_of

LICENCE = {"name": "dinov3-license", "link": "https://example.org/licence"}
SCORES = {
    "images": 1000,
    "accuracy": {"all": 50.0, "many": 80.04, "medium": None, "few": 20.0},
    "interval": {"all": [47.0, 53.0], "many": [78.0, 82.0], "medium": [None, None], "few": [15.0, 25.0]},
    "balanced": 49.0,
    "top5": 90.0,
}


def run_of(key: str, section: str, **results: Any) -> dict[str, Any]:
    versions = {"mem": "1.2", "torch": "2.9"}
    record = {"key": key, "versions": versions, "seconds": 1800, "inputs": {}, "results": results}
    return record | {"settings": {section: {"epochs": 3, "betas": [0.9, 0.999], "warmup": None}}}


def facts(**changes: Any) -> ModelFacts:
    """Return facts about a head; `changes` replace fields, and `initial` is the record of the initial weights."""
    about = about_of(VIT) | {
        "dataset": "pets",
        "labels": {"variant": "crt_again", "method": "crt", "seed": 3, "order": 1},
    }
    about |= {"git": {"commit": "abc123", "dirty": True}} | changes.get("about", {})
    initial = {"initial": changes["initial"]} if "initial" in changes else {}
    records = {
        "train_head": run_of("k1", "head", tau=0.7),
        "features": run_of("k2", "features", **initial),
        "convert": run_of("k3", "dataset"),
    }
    records["convert"]["settings"]["dataset"] = {"source": changes.get("source", "folder"), "cut": {"counts": [9, 1]}}
    records |= changes.get("records", {})
    counts = {"train": {"images": 1234, "counts": [1200, 30, 4, 0]}, "val": {"images": 50}, "test": {"images": 1000}}
    manifest = {"splits": counts, "shots": "many>100 few<20", "skipped": {"damaged": 2}}
    metrics = {"splits": {"test": SCORES, "val": SCORES | {"images": 50}}}
    return ModelFacts(about, records, manifest, changes.get("metrics", metrics))


def card(licence: str = "mit", images: dict[str, Any] | None = None, **changes: Any) -> str:
    """Return the card of a head."""
    about = changes.setdefault("about", {})
    about["images"] = about_of(VIT)["images"] | (images or {})
    configuration = {
        "architecture": "vit_base_patch16_224",
        "label_names": [f"class {i}" for i in range(25)],
        "pretrained_cfg": {"license": licence, "interpolation": "hamming"},
    }
    return model_card(facts(**changes), configuration)


def metadata(text: str) -> dict[str, Any]:
    return yaml.safe_load(text.split("---")[1])


def test_the_table_contains_the_scores_with_their_intervals():
    scores = "50.0 [47.0, 53.0] | 80.0 [78.0, 82.0] | - | 20.0 [15.0, 25.0] | 49.0 | 90.0 |"
    text = card()
    assert f"| Test | 1,000 | {scores}" in text
    assert f"| Validation | 50 | {scores}" in text
    assert "crops" not in text


def test_the_metadata_contain_the_scores_on_test():
    _, results = model_index_to_eval_results(metadata(card())["model-index"])
    found = {result.metric_name: (result.metric_value, result.metric_args) for result in results}
    assert found == {
        "Accuracy (%)": (50.0, {"interval_95": [47.0, 53.0]}),
        "Accuracy of many-shot classes (%)": (80.04, {"interval_95": [78.0, 82.0]}),
        "Accuracy of few-shot classes (%)": (20.0, {"interval_95": [15.0, 25.0]}),
        "Mean per-class accuracy (%)": (49.0, None),
        "Top-5 accuracy (%)": (90.0, None),
    }
    assert {(result.dataset_split, result.dataset_name) for result in results} == {("test", "pets")}


def test_scores_of_several_crops_are_marked():
    text = card(metrics={"splits": {"test": SCORES}, "crops": {"number": 5, "resize": 248}})
    assert "Logits were averaged over five crops at 248 of each image." in text
    (first, *_) = model_index_to_eval_results(metadata(text)["model-index"])[1]
    assert first.metric_name == "Accuracy (%), five crops at 248"


def test_a_head_without_an_evaluation_has_no_scores():
    text = card(metrics=None)
    assert "This head was not evaluated when it was exported." in text
    assert "model-index" not in metadata(text)


def test_a_transductive_head_is_marked():
    text = card(about={"transductive": True})
    assert "**Transductive:** the head was adapted to the test images" in text
    assert "transductive" in metadata(text)["tags"]
    assert "ransductive" not in card()


@pytest.mark.parametrize(
    ("licence", "expected"),
    [
        # The hub knows a licence that it does not list by a name and a link.
        ("dinov3-license", {"license": "other", "license_name": "dinov3-license", "license_link": LICENCE["link"]}),
        ("mit", {"license": "mit"}),  # that of --license
    ],
)
def test_the_licence_has_the_form_of_the_hub(licence, expected):
    found = metadata(card(licence, initial={"licence": LICENCE}))
    assert {key: value for key, value in found.items() if key.startswith("license")} == expected


@pytest.mark.parametrize(
    ("initial", "expected"),
    [
        (
            {"weights": "hf-hub:a/b", "revision": "f00", "sha256": "beef", "licence": LICENCE},
            "hf-hub:a/b, commit f00, SHA-256 beef, licence: dinov3-license",
        ),
        ({"weights": "local-dir:/home/me/secret", "sha256": "beef"}, "a file of the user, SHA-256 beef, licence: none"),
        ({"sha256": "beef"}, "a file of the user, SHA-256 beef, licence: none stated"),
    ],
)
def test_the_initial_weights_are_named_without_paths(initial, expected):
    text = card(initial=initial)
    assert f"- Initial weights: {expected}" in text
    assert "secret" not in text


def test_without_initial_weights_training_started_from_pretraining_or_from_random_weights():
    assert "- Initial weights: random" in card()
    pretrained = card(records={"pretrain": run_of("k0", "pretrain")})
    assert "- Initial weights: self-supervised pretraining on the training images" in pretrained
    assert "- `pretrain`: epochs 3" in pretrained


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("fashion_mnist", "MIT (LICENSE of zalandoresearch/fashion-mnist"),
        ("folder", "not known to mem: state it here before you publish the model"),
        ("imagenet_lt", "not known to mem: state it here before you publish the model"),
    ],
)
def test_terms_of_data_that_were_not_read_are_left_to_the_user(source, expected):
    assert f"- Licence of the data: {expected}" in card(source=source)


def test_data_and_protocol():
    text = card()
    for line in (
        "- Dataset: `pets` (source `folder`)",
        "- train: 1,234 images",
        "- Training images per class: 1,200 to 4",
        "- 2 unreadable images were skipped",
        "- Shot groups by the number of training images per class: many>100 few<20",
        "- Cut to a long tail: counts `[9, 1]`",
        "- Settings are chosen on val; test is used only for the scores above",
        "- Seed 3, class order 1; the scores are those of this one run",
        "- Images: one central square (1 of the shorter side), resized to 8 x 8 pixels",
        "- `head`: epochs 3, betas `[0.9, 0.999]`\n",
        "- tau 0.7, chosen on val",
        "- Trained with mem 1.2, commit abc123 with uncommitted changes",
        "- Versions: torch 2.9",
        "- Run keys: train_head k1, features k2, convert k3",
        "- Time of these runs: 1.50 h",
        "class 19, and 5 more (`label_names` in config.json).",
    ):
        assert line in text, line
    refitted = card(about={"labels": {"variant": "crt", "branch": "refit"}})
    assert "This head was then trained on all training images (branch `refit`)" in refitted
    assert "Settings are chosen on val" not in refitted


def test_differences_from_the_evaluated_model():
    assert "images that were cropped, and resized with OpenCV's INTER_AREA. timm's transform resizes with `h" in card()
    stored = card(images={"short_side": 256, "storage": "jpeg", "jpeg_quality": 80}, about={"tuner": {"name": "lora"}})
    assert "images that were reduced to a shorter side of 256 px, compressed as JPEG (quality 80), cropped" in stored
    assert "finetuned with the tuner `lora`" in stored


def test_the_scores_of_one_crop_are_preferred_and_those_of_other_heads_are_not_used(tmp_path: Path):
    runs = tmp_path / "runs" / "pets" / "vit"

    def write(name: str, record: dict[str, Any], metrics: dict[str, Any] | None = None) -> Path:
        (runs / name).mkdir(parents=True)
        (runs / name / "run.json").write_text(json.dumps({"inputs": {}, "results": {}} | record))
        if metrics is not None:
            (runs / name / "metrics.json").write_text(json.dumps(metrics))
        return runs / name

    head, features = write("train_head-1", {}), write("features-1", {})
    images = write("convert-1", {})
    (images / "dataset.json").write_text("{}")
    lineage = Lineage(head, features, features, images, updated_batch_norm=False)
    write("evaluate-9", {"inputs": {"head": "runs/pets/vit/train_head-2"}}, {"other": True})
    assert facts_of(lineage, {}).metrics is None
    own = {"inputs": {"head": "runs/pets/vit/train_head-1"}}
    write("evaluate-1", own, {"crops": {"number": 5, "resize": 11}})
    assert facts_of(lineage, {}).metrics == {"crops": {"number": 5, "resize": 11}}
    write("evaluate-2", own, {"splits": {}})
    assert facts_of(lineage, {}).metrics == {"splits": {}}


def test_the_card_names_no_folders_of_the_machine():
    finetune = run_of("k0", "finetune")
    finetune["settings"]["finetune"]["initial_classifier"] = {"source": "file", "file": "/home/someone/rows.npy"}
    text = card(records={"finetune": finetune})
    assert '{"source": "file", "file": ".../rows.npy"}' in text
    assert "someone" not in text

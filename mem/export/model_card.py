"""The model card: README.md with the data, the scores, the training and the provenance of a head."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import mem
from mem.errors import printable
from mem.export.card_metadata import GROUPS, card_metadata, has_interval
from mem.export.classifier import TOLERANCE
from mem.export.model_facts import ModelFacts
from mem.local_paths import without_folders

_NAMED_SPLITS = {"test": "Test", "val": "Validation"}
_SHOWN_CLASSES = 20
_NOT_SHOWN = ("validate_every_epochs",)
"""Settings that do not affect the result."""


def model_card(facts: ModelFacts, configuration: Mapping[str, Any]) -> str:
    """Return the content of README.md.

    Args:
        facts: Facts about the head.
        configuration: Content of config.json.
    """
    sections = (
        ["---", card_metadata(facts, configuration["pretrained_cfg"]["license"]), "---", ""],
        _introduction(facts, configuration["architecture"]),
        _scores(facts),
        _usage(configuration),
        _data(facts),
        _protocol(facts),
        _training(facts),
        _differences(facts, configuration),
        _provenance(facts),
    )
    return printable("\n".join(line for section in sections for line in section).rstrip()) + "\n"


def _introduction(facts: ModelFacts, architecture: str) -> Iterator[str]:
    about = facts.about
    yield f"# Model card for {facts.name}"
    yield ""
    yield (
        f"An image classifier for the {len(about['classes'])} classes of `{about['dataset']}`, a long-tailed dataset: "
        f"the head `{about['labels'].get('variant')}` (method `{about['labels'].get('method')}`) on the backbone "
        f"`{about['backbone']['name']}`, as timm's `{architecture}`."
    )
    yield ""
    if about.get("transductive"):
        yield (
            "**Transductive:** the head was adapted to the test images, without their labels. Do not compare its "
            "scores with those of methods that do not use test images."
        )
        yield ""


def _scores(facts: ModelFacts) -> Iterator[str]:
    yield "## Scores"
    yield ""
    if facts.metrics is None:
        yield "This head was not evaluated when it was exported."
        yield ""
        return
    yield (
        "Accuracies in percent. Brackets contain 95 % bootstrap intervals over the images of the split; they do not "
        "contain the variation between seeds. A dash stands for a group without images."
    )
    if facts.crops is not None:
        yield (
            f"Logits were averaged over {facts.crops} of each image. The network itself classifies one crop, so that "
            "its scores differ."
        )
    yield ""
    yield "| split | images | all | many | medium | few | mean per class | top 5 |"
    yield "|---|---|---|---|---|---|---|---|"
    for split, name in _NAMED_SPLITS.items():
        if (scores := facts.metrics["splits"].get(split)) is None:
            continue
        cells = [_accuracy(scores["accuracy"].get(g), scores["interval"].get(g)) for g in GROUPS]
        further = [_accuracy(scores.get(key)) for key in ("balanced", "top5")]
        yield f"| {name} | {scores['images']:,} | {' | '.join([*cells, *further])} |"
    yield ""


def _accuracy(value: float | None, interval: Sequence[float | None] | None = None) -> str:
    if value is None:
        return "-"
    return f"{value:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if has_interval(interval) else "")


def _usage(configuration: Mapping[str, Any]) -> Iterator[str]:
    yield from (
        "## Use",
        "",
        "```python",
        "import timm, torch",
        "from PIL import Image",
        "",
        'model = timm.create_model("local-dir:FOLDER", pretrained=True).eval()  # or hf-hub:OWNER/REPOSITORY',
        "transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model), is_training=False)",
        'image = transform(Image.open("photo.jpg").convert("RGB"))',
        "probabilities = model(image[None]).softmax(dim=1)",
        'labels = model.pretrained_cfg["label_names"]',
        "```",
        "",
    )
    names = configuration["label_names"]
    more = f", and {len(names) - _SHOWN_CLASSES:,} more (`label_names` in config.json)"
    yield f"Classes: {', '.join(names[:_SHOWN_CLASSES])}{more if len(names) > _SHOWN_CLASSES else ''}."
    yield ""
    yield "With mem installed, `mem predict IMAGES --model FOLDER` prepares images exactly as in the evaluation."
    yield ""


def _data(facts: ModelFacts) -> Iterator[str]:
    yield "## Data"
    yield ""
    yield f"- Dataset: `{facts.about['dataset']}`" + (f" (source `{facts.source}`)" if facts.source else "")
    yield f"- Licence of the data: {facts.data_licence}"
    counts = facts.manifest["splits"]["train"]["counts"]
    for split, content in facts.manifest["splits"].items():
        yield f"- {split}: {content['images']:,} images"
    if positive := [count for count in counts if count]:
        yield f"- Training images per class: {max(positive):,} to {min(positive):,}"
    if skipped := sum(facts.manifest.get("skipped", {}).values()):
        yield f"- {skipped:,} unreadable images were skipped"
    yield ""


def _protocol(facts: ModelFacts) -> Iterator[str]:
    dataset = facts.records["convert"]["settings"]["dataset"]
    labels = facts.about["labels"]
    yield "## Protocol"
    yield ""
    thresholds = (facts.metrics or {}).get("thresholds") or facts.manifest.get("shots")
    yield f"- Shot groups by the number of training images per class: {thresholds}"
    for name, meaning in (("cut", "Cut to a long tail"), ("holdout", "Val split, held out from the training images")):
        if dataset.get(name):
            yield f"- {meaning}: {_inline(dataset[name])}"
    if labels.get("branch"):
        yield (
            "- Settings were chosen on held-out training images. This head was then trained on all training images "
            f"(branch `{labels['branch']}`)"
        )
    elif facts.manifest["splits"].get("val", {}).get("images"):
        yield "- Settings are chosen on val; test is used only for the scores above"
    yield f"- Seed {labels.get('seed')}, class order {labels.get('order')}; the scores are those of this one run"
    backbone = facts.about["backbone"]
    crop, side = backbone["center_crop"], backbone["image_size"]
    yield f"- Images: one central square ({crop:g} of the shorter side), resized to {side} x {side} pixels"
    yield ""


def _training(facts: ModelFacts) -> Iterator[str]:
    yield "## Training"
    yield ""
    yield f"- Initial weights: {_initial(facts)}"
    for stage, section in (("pretrain", "pretrain"), ("finetune", "finetune"), ("train_head", "head")):
        settings = facts.records.get(stage, {}).get("settings", {}).get(section)
        if settings:
            yield f"- `{section}`: {_inline(without_folders(settings))}"
    if updated := facts.records["features"]["settings"]["features"].get("batch_norm"):
        yield f"- BatchNorm statistics were updated on training images after finetuning: {_inline(updated)}"
    results = facts.records["train_head"]["results"]
    if (tau := results.get("tau")) is not None:
        yield f"- tau {tau}, chosen on val"
    yield ""


def _initial(facts: ModelFacts) -> str:
    initial = facts.initial
    if initial is None:
        return "self-supervised pretraining on the training images" if "pretrain" in facts.records else "random"
    name = initial.get("weights")
    if name is None or name.startswith("local-dir:"):
        name = "a file of the user"
    commit = f", commit {initial['revision']}" if initial.get("revision") else ""
    digest = f", SHA-256 {initial['sha256']}" if initial.get("sha256") else ""
    licence = initial.get("licence") or {}
    return f"{name}{commit}{digest}, licence: {licence.get('name') or 'none stated'}"


def _inline(settings: Any) -> str:
    """Return settings on one line, without those that have no value."""
    if isinstance(settings, Mapping):
        shown = {key: value for key, value in settings.items() if value is not None and key not in _NOT_SHOWN}
        return ", ".join(f"{key} {_value(value)}" for key, value in shown.items())
    return _value(settings)


def _value(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False) if isinstance(value, Mapping | list) else str(value)
    return f"`{text}`" if isinstance(value, Mapping | list) else text


def _differences(facts: ModelFacts, configuration: Mapping[str, Any]) -> Iterator[str]:
    images, cfg = facts.about["images"], configuration["pretrained_cfg"]
    yield "## Differences from the evaluated model"
    yield ""
    yield (
        "- The head is the classifier of the network. Its logits agree with those of the evaluated head to "
        f"{TOLERANCE:g}, relative to the largest one or 1."
    )
    tuner = facts.about.get("tuner")
    if tuner is not None:
        yield f"- The backbone was finetuned with the tuner `{tuner['name']}`. The network has no layers of the tuner."
    stored = "" if images["short_side"] is None else f"reduced to a shorter side of {images['short_side']} px, "
    compressed = f"compressed as JPEG (quality {images['jpeg_quality']}), " if images["storage"] != "raw" else ""
    yield (
        f"- The scores were computed on images that were {stored}{compressed}cropped, and resized with OpenCV's "
        f"INTER_AREA. timm's transform resizes with `{cfg['interpolation']}`, the nearest of its interpolations, and "
        "gives slightly different pixels and probabilities. `mem predict` prepares images as in the evaluation."
    )
    yield ""


def _provenance(facts: ModelFacts) -> Iterator[str]:
    yield "## Provenance"
    yield ""
    git = facts.about["git"]
    changed = " with uncommitted changes" if git.get("dirty") else ""
    yield f"- Trained with mem {facts.records['train_head']['versions']['mem']}, commit {git.get('commit')}{changed}"
    yield f"- Exported with mem {mem.__version__}"
    versions = facts.records["train_head"]["versions"]
    yield f"- Versions: {', '.join(f'{name} {version}' for name, version in versions.items() if name != 'mem')}"
    keys = ", ".join(f"{stage} {record['key']}" for stage, record in facts.records.items())
    yield f"- Run keys: {keys}"
    seconds = sum(record.get("seconds", 0) for record in facts.records.values())
    yield f"- Time of these runs: {seconds / 3600:.2f} h"

"""The metadata at the start of a model card, which the Hugging Face Hub reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeGuard

from huggingface_hub import EvalResult, ModelCardData

from mem.export.model_facts import ModelFacts
from mem.longtail import SHOT_NAMES

_TASK = "image-classification"
"""The hub's name of the task."""
GROUPS = ("all", *SHOT_NAMES)
"""Groups of classes for which the card states the accuracy."""


def card_metadata(facts: ModelFacts, licence: str) -> str:
    """Return the YAML at the start of the card.

    Args:
        facts: Facts about the head.
        licence: Licence of the weights.
    """
    transductive = ["transductive"] if facts.about.get("transductive") else []
    # The hub lists the common licences. It knows others by a name and a link.
    link = facts.licence_link if licence == facts.licence else None
    data = ModelCardData(
        license=licence if link is None else "other",
        license_name=None if link is None else licence,
        license_link=link,
        library_name="timm",
        pipeline_tag=_TASK,
        tags=[_TASK, "timm", "long-tailed", *transductive],
        datasets=[facts.about["dataset"]],
        model_name=facts.name,
        eval_results=list(_results(facts)) or None,
    )
    return data.to_yaml().rstrip()


def _results(facts: ModelFacts) -> Iterator[EvalResult]:
    """Yield the scores on test for the hub's model index: accuracies in percent, by shot group."""
    scores = (facts.metrics or {}).get("splits", {}).get("test")
    if scores is None:
        return
    mark = "" if facts.crops is None else f", {facts.crops}"
    names = {"all": "Accuracy (%)"} | {group: f"Accuracy of {group}-shot classes (%)" for group in SHOT_NAMES}
    values = [(names[group], scores["accuracy"].get(group), scores["interval"].get(group)) for group in GROUPS]
    values.append(("Mean per-class accuracy (%)", scores.get("balanced"), None))
    values.append(("Top-5 accuracy (%)", scores.get("top5"), None))
    for name, value, interval in values:
        if value is not None:
            yield EvalResult(
                task_type=_TASK,
                dataset_type=facts.about["dataset"],
                dataset_name=facts.about["dataset"],
                dataset_split="test",
                metric_type="accuracy",
                metric_name=f"{name}{mark}",
                metric_value=value,
                metric_args={"interval_95": interval} if has_interval(interval) else None,
            )


def has_interval(interval: Sequence[float | None] | None) -> TypeGuard[Sequence[float]]:
    """Return whether an accuracy has a confidence interval. A group without images has none."""
    return interval is not None and None not in interval

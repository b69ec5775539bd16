"""Names of MLflow runs: the head with its distinguishing settings, or the stage; the backbone; and the seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

SEPARATOR = " · "
_LONGEST_NAME = 250
"""Maximum length of a name. MLflow's database accepts no longer ones."""
_METHODS = {"ce": "CE", "crt": "cRT", "lws": "LWS", "ncm": "NCM"}
"""Names of heads that are usually written with capital letters."""


def run_name(start: Mapping[str, Any]) -> str:
    """Return the name of the MLflow run of a stage, for example `mem (frozen CE, softmax) · vit_base · seed 0`.

    Args:
        start: The start event of the run's log. Its settings and labels may be incomplete.
    """
    labels = start["labels"]
    words = {"train_head": _head_words, "pretrain": _pretrain_words, "finetune": _finetune_words}.get(start["stage"])
    settings = start["settings"]
    described = ", ".join(words(settings)) if words else str(labels.get("crops", ""))
    subject = labels.get("variant") or " ".join(_stage_words(start))
    return joined(f"{subject} ({described})" if described else str(subject), place(start), *repeat_words(labels))


def joined(*parts: str) -> str:
    """Return a name that consists of the given parts without empty ones."""
    return SEPARATOR.join(part for part in parts if part)[:_LONGEST_NAME]


def place(start: Mapping[str, Any]) -> str:
    """Return what a run belongs to: the study of a report, the dataset of a conversion, or else the backbone."""
    if start["stage"] == "report":
        return str(start["labels"].get("study", ""))
    return start["dataset"] if start["stage"] == "convert" else start["backbone"]


def repeat_words(labels: Mapping[str, Any]) -> Iterator[str]:
    """Yield the branch, the class order unless it is that of the dataset, and the seed."""
    if branch := labels.get("branch"):
        yield str(branch)
    if order := labels.get("order"):
        yield f"order {order}"
    if (seed := labels.get("seed")) is not None:
        yield f"seed {seed}"


def earlier_run_name(start: Mapping[str, Any]) -> str:
    """Return the name that earlier versions of mem gave to the MLflow run, for example `mem o0 s0 35e0`."""
    labels = start["labels"]
    names = (labels.get("variant", labels.get("finetuning")), labels.get("branch"), labels.get("crops"))
    words = [*([] if "variant" in labels else [start["stage"]]), *(str(name) for name in names if name is not None)]
    words += [f"{name[0]}{labels[name]}" for name in ("order", "seed") if name in labels]
    return " ".join([*words, start["key"][:4]])


def _stage_words(start: Mapping[str, Any]) -> Iterator[str]:
    """Yield the stage and the variant of finetuning."""
    yield start["stage"]
    if (finetuning := start["labels"].get("finetuning")) is not None:
        yield str(finetuning)


def _head_words(settings: Mapping[str, Any]) -> Iterator[str]:
    """Yield the settings of a head that distinguish it from other heads of its method.

    These are the classifier that it starts from and, for MEM, how its classifier is trained and how the fusion acts.
    """
    head = _section(settings, "head")
    origin = _METHODS.get(str(head.get("classifier_from")), head.get("classifier_from"))
    if head.get("method") == "mem":
        classifier = str(head.get("classifier", ""))
        yield "new classifier" if classifier == "fresh" else f"{classifier} {origin or 'classifier'}".strip()
        yield str(head.get("weight", ""))
    elif origin is not None and isinstance(head.get("training"), Mapping):
        yield f"from {origin}"
    if head.get("input") == "tokens":
        yield "tokens"
    taus = head.get("taus")
    if isinstance(taus, list) and taus:
        name = "" if head.get("method") == "tau" else "tau "
        yield f"{name}{taus[0]}" if len(taus) == 1 else f"{name}chosen on val"


def _pretrain_words(settings: Mapping[str, Any]) -> Iterator[str]:
    yield "MAE"
    yield from _epochs(_section(settings, "pretrain"))


def _finetune_words(settings: Mapping[str, Any]) -> Iterator[str]:
    finetune = _section(settings, "finetune")
    objective = _section(finetune, "objective").get("name", finetune.get("objective") or "cross_entropy")
    yield str(objective).replace("_", " ").replace("cross entropy", "cross-entropy")
    yield from _epochs(finetune)


def _epochs(section: Mapping[str, Any]) -> Iterator[str]:
    epochs = section.get("epochs")
    if isinstance(epochs, int | float):
        yield f"{epochs:g} epochs"


def _section(settings: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of the settings, or an empty one if there is none. Logs may come from another version."""
    section = settings.get(name)
    return section if isinstance(section, Mapping) else {}

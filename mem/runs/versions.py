"""Versions of the stages. They are part of the run keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_VERSIONS = {"evaluate": 2}
"""Version of each stage whose version is not 1. Increase it when a code change alters the results of the stage. All
runs of the stage then get new keys and are recomputed."""
_SELECTING_HEAD_VERSION = 2
"""Version of `train_head` for heads that are selected on val. Version 1 selected by the accuracy over all images of
val; version 2 selects by the mean per-class accuracy (decision 0054)."""

_FILE_EMBEDDINGS_VERSION = 2
"""Version of runs that start from a file of class embeddings. Version 1 did not apply a square projection in the
initial weights to them (decision 0071)."""


def version_of(stage: str, settings: Mapping[str, Any]) -> int:
    """Return the version of a run.

    If a change concerns only some runs of a stage, only their version rises, so that all other runs keep their keys.

    Args:
        stage: Stage of the run.
        settings: Settings of the run as they are in its key (see `mem.runs.keys.keyed`).
    """
    if stage == "train_head" and selects_on_val(settings.get("head", {})):
        return _SELECTING_HEAD_VERSION
    if (stage == "finetune" and _is_file(settings.get("finetune", {}).get("initial_classifier"))) or (
        stage == "train_head" and _is_file(settings.get("head", {}).get("embeddings"))
    ):
        return _FILE_EMBEDDINGS_VERSION
    return _VERSIONS.get(stage, 1)


def selects_on_val(head: Mapping[str, Any]) -> bool:
    """Return whether a head, given as the settings in its key, has several candidates to select from on val."""
    return head.get("method") in ("tau", "logit_adjustment") and len(head.get("taus", ())) > 1


def _is_file(embeddings: Any) -> bool:
    """Return whether class embeddings, given as the settings in a key, are read from a file."""
    return isinstance(embeddings, Mapping) and embeddings.get("source") == "file"

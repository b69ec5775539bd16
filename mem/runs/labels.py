"""Names of runs from their labels, as users see them in messages, tables and MLflow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def names_of(labels: Mapping[str, Any]) -> list[str]:
    """Return the names that distinguish the runs of a stage: the head or variant of finetuning, branch and crops.

    A head names its finetuning in the study, so that the name of the head is enough.
    """
    names = (labels.get("variant", labels.get("finetuning")), labels.get("branch"), labels.get("crops"))
    return [str(name) for name in names if name is not None]

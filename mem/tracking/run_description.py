"""Tags and params of an MLflow run, from the start event of its log."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

LOG_ID = "mem.log_id"
"""MLflow tag that contains the id of the log for which the run was created."""


def run_tags(log_id: str, folder: str, start: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags that are set when the run is created.

    Args:
        log_id: Id of the log.
        folder: Run folder, relative to the root.
        start: The log's start event.
    """
    return {
        LOG_ID: log_id,
        "stage": start["stage"],
        "dataset": start["dataset"],
        "backbone": start["backbone"],
        "config_digest": start["key"],
        "folder": folder,
        **{name: str(value) for name, value in start["labels"].items()},
    }


def attempt_tags(start: Mapping[str, Any]) -> dict[str, str]:
    """Return the tags whose values can differ between attempts of the same run."""
    slurm = start["machine"]["slurm"] or {}
    return {
        "git_sha": str(start["git"]["commit"]),
        "git_dirty": str(start["git"]["dirty"]),
        "host": start["machine"]["host"],
        "slurm_job_id": slurm.get("job_id", ""),
        "restarts": slurm.get("restart_count", "0"),
    }


def run_params(start: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings of a run as flat params, together with its labels. For a report, return only the labels."""
    flat: dict[str, str] = {}

    def flatten(value: Any, name: str) -> None:
        if isinstance(value, Mapping):
            for key, inner in value.items():
                flatten(inner, f"{name}.{key}" if name else key)
        else:
            flat[name] = json.dumps(value) if isinstance(value, list) else str(value)

    if start["stage"] != "report":
        flatten(start["settings"], "")
    return {**flat, **{name: str(value) for name, value in start["labels"].items()}}

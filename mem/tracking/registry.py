"""MLflow's registry: the mirror's answer to a `model` event in a head's log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ARTIFACT = "model"
"""Folder of the model among a run's artifacts."""
_KEY = "mem.key"
"""Tag of a version: which head's run it is."""


def register(own: Any, run_id: str, model: Path, name: str, alias: str, key: str, tags: Mapping[str, str]) -> None:
    """Log a model to the run of its head and let an alias of a registered name stand for it.

    Done twice it changes nothing, so that a mirror that died in between can do it again.

    Args:
        own: MLflow's client.
        run_id: MLflow's run of the head.
        model: Folder of the MLflow model.
        name: Under which it is registered.
        alias: Stands for this version from now on, whatever it stood for before.
        key: Of the head's run.
        tags: Of the version.
    """
    if not any(found.name == name for found in own.search_registered_models(filter_string=f"name = '{name}'")):
        own.create_registered_model(name)
    versions = own.search_model_versions(f"name = '{name}'")
    version = next((v for v in versions if v.tags.get(_KEY) == key), None)
    if version is None:
        own.log_artifacts(run_id, str(model), ARTIFACT)
        source = f"{own.get_run(run_id).info.artifact_uri}/{ARTIFACT}"
        version = own.create_model_version(name, source, run_id=run_id, tags={**tags, _KEY: key})
    own.set_registered_model_alias(name, alias, version.version)

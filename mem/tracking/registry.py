"""Register a head's model in MLflow. The mirror does this for each `model` event in the head's log."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

ARTIFACT = "model"
"""Folder for the model among a run's artifacts."""
_KEY = "mem.key"
"""Tag of a model version that contains the key of the head's run."""


def register(
    mlflow_client: Any, run_id: str, model: Path, name: str, alias: str, key: str, tags: Mapping[str, str]
) -> None:
    """Log a model to the MLflow run of its head, register it, and set an alias on the new version.

    Registration is idempotent, so that the next mirror can repeat it if a mirror is killed before it is complete.

    Args:
        mlflow_client: MLflow's client.
        run_id: Id of the head's MLflow run.
        model: Folder of the MLflow model.
        name: Name of the registered model.
        alias: Alias to set on this version. It is removed from the previous version with this alias.
        key: Key of the head's run.
        tags: Tags of a new version.
    """
    registered = mlflow_client.search_registered_models(filter_string=f"name = '{name}'")
    registered = mlflow_client.search_registered_models(filter_string=f"name = '{name}'")
    if not any(found.name == name for found in registered):
        mlflow_client.create_registered_model(name)
    versions = mlflow_client.search_model_versions(f"name = '{name}'")
    version = next((v for v in versions if v.tags.get(_KEY) == key), None)
    if version is None:
        mlflow_client.log_artifacts(run_id, str(model), ARTIFACT)
        source = f"{mlflow_client.get_run(run_id).info.artifact_uri}/{ARTIFACT}"
        version = mlflow_client.create_model_version(name, source, run_id=run_id, tags={**tags, _KEY: key})
    mlflow_client.set_registered_model_alias(name, alias, version.version)

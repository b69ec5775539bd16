"""Write model folders that MLflow can serve, and download registered models."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mem.errors import UserError
from mem.tracking import server

import mlflow.artifacts  # isort: skip  # after `server`, which sets variables that MLflow reads on import
import mlflow.pyfunc  # isort: skip
from mlflow.models import ModelSignature  # isort: skip
from mlflow.types import ColSpec, Schema  # isort: skip
from mlflow.types.schema import AnyType  # isort: skip

LOADER = "mem.export.served"
"""Module that defines `_load_pyfunc`. It belongs to a higher layer and is therefore not imported here."""
SCHEME = "models:/"
"""Prefix of registry addresses: models:/NAME@ALIAS or models:/NAME/VERSION."""


def write_model(data: Path, out: Path, requirements: list[str], metadata: Mapping[str, Any]) -> None:
    """Write an MLflow model folder.

    Args:
        data: Folder that the loader reads. It is copied into the model.
        out: The model folder. An existing folder is replaced.
        requirements: pip requirements for environments that MLflow creates.
        metadata: Metadata of the model.
    """
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # Ignore MLflow's warnings, which ask for an input example and a specific column type. An example would store
        # a user's image in the model, and no specific type fits, because the column accepts both arrays and text.
        warnings.simplefilter("ignore", UserWarning)
        model = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            model,
            loader_module=LOADER,
            data_path=str(data),
            pip_requirements=requirements,
            signature=ModelSignature(inputs=Schema([ColSpec(AnyType(), "image")])),
            metadata=dict(metadata),
        )
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(model, out)


def fetch(address: str, root: Path, into: Path) -> Path:
    """Download a registered model.

    Args:
        address: models:/NAME@ALIAS or models:/NAME/VERSION.
        root: Parent folder of `runs/`.
        into: Destination folder.

    Returns:
        The folder of the model in `into`.

    Raises:
        UserError: The model does not exist, or the server cannot be used.
    """
    name, at, alias = address.removeprefix(SCHEME).partition("@")
    name, _, number = name.partition("/") if not at else (name, "", "")
    if not name or not (alias or number):
        raise UserError(f"{address}: expected {SCHEME}NAME@ALIAS or {SCHEME}NAME/VERSION")
    uri = server.tracking_uri(root)
    try:
        mlflow_client = server.client(uri)
        models = mlflow_client.search_registered_models()
        registered = [f"{model.name}@{alias}" for model in models for alias in sorted(model.aliases)]
    except server.tracking_errors() as error:
        raise UserError(server.explain(uri, error)) from None
    try:
        version = mlflow_client.get_model_version_by_alias(name, alias).version if alias else number
        source = mlflow_client.get_model_version_download_uri(name, version)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=uri))
    except (*server.tracking_errors(), OSError) as error:
        raise UserError(
            f"{address}: cannot be downloaded from {uri}: {' '.join(str(error).split())[:200]}. Registered models: "
            f"{', '.join(registered) or 'none'}. `mem register STUDY` registers the best head of a study."
        ) from None

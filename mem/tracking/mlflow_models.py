"""Write model folders that MLflow can serve, and download registered models."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from mem.errors import UserError
from mem.tracking import server

import mlflow.artifacts  # isort: skip  # after `server`, which sets variables that MLflow reads on import
import mlflow.pyfunc  # isort: skip
from mlflow.models import ModelSignature  # isort: skip
from mlflow.types import ColSpec, Schema, TensorSpec  # isort: skip

LOADER = "mem.export.served"
"""Module that defines `_load_pyfunc`. It belongs to a higher layer and is therefore not imported here."""
SCHEME = "models:/"
"""Prefix of registry addresses: models:/NAME@ALIAS or models:/NAME/VERSION."""


class ModelInterface(NamedTuple):
    """Inputs and outputs of a model, as MLflow states them in its signature."""

    outputs: Mapping[str, str]
    """Columns of the output with MLflow's types, in their order."""
    example: Any
    """A table (pandas DataFrame) with an input that users may see. Its columns are those of the input."""


def write_model(
    data: Path, out: Path, requirements: list[str], metadata: Mapping[str, Any], interface: ModelInterface
) -> None:
    """Write an MLflow model folder.

    The type of the input is `string`, for the content of an image file in base64. MLflow does not convert the values of
    such a column, so that the model also accepts bytes, arrays and nested lists.

    Args:
        data: Folder that the loader reads. It is copied into the model.
        out: The model folder. An existing folder is replaced.
        requirements: pip requirements for environments that MLflow creates.
        metadata: Metadata of the model.
        interface: Inputs and outputs of the model.
    """
    columns: list[ColSpec | TensorSpec] = [ColSpec(kind, name) for name, kind in interface.outputs.items()]
    inputs: list[ColSpec | TensorSpec] = [ColSpec("string", name) for name in interface.example.columns]
    signature = ModelSignature(inputs=Schema(inputs), outputs=Schema(columns))
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # MLflow warns of things that the user of `mem export` cannot change.
        warnings.simplefilter("ignore")
        model = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            model,
            loader_module=LOADER,
            data_path=str(data),
            pip_requirements=requirements,
            signature=signature,
            input_example=interface.example,
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

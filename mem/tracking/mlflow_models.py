"""MLflow's models: a folder that MLflow's own command serves, and the folder that a registered name stands for."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mem.errors import UserError
from mem.tracking import server

import mlflow.artifacts  # isort: skip  # after `server`, which sets what MLflow reads when it is imported
import mlflow.pyfunc  # isort: skip
from mlflow.models import ModelSignature  # isort: skip
from mlflow.types import ColSpec, Schema  # isort: skip
from mlflow.types.schema import AnyType  # isort: skip

LOADER = "mem.export.served"
"""Module with `_load_pyfunc`. Named, not imported: it stands above this one."""
SCHEME = "models:/"
"""What an address in the registry begins with: models:/NAME@ALIAS or models:/NAME/VERSION."""


def write_model(data: Path, out: Path, requirements: list[str], metadata: Mapping[str, Any]) -> None:
    """Write an MLflow model folder.

    Args:
        data: What the loader reads; it is copied into the model.
        out: The folder; one that is there is replaced.
        requirements: Of pip, for those who let MLflow make an environment.
        metadata: Noted in the model.
    """
    with tempfile.TemporaryDirectory() as temporary, warnings.catch_warnings():
        # MLflow asks for an example, which would put somebody's image into the model, and for a type of the column,
        # where arrays and text are both meant.
        warnings.simplefilter("ignore", UserWarning)
        made = Path(temporary) / "model"
        mlflow.pyfunc.save_model(
            made,
            loader_module=LOADER,
            data_path=str(data),
            pip_requirements=requirements,
            signature=ModelSignature(inputs=Schema([ColSpec(AnyType(), "image")])),
            metadata=dict(metadata),
        )
        shutil.rmtree(out, ignore_errors=True)
        shutil.move(made, out)


def fetch(address: str, root: Path, into: Path) -> Path:
    """The folder of a registered model, copied to `into`.

    Raises:
        UserError: There is no such model, or the server cannot be used.
    """
    name, at, alias = address.removeprefix(SCHEME).partition("@")
    name, _, number = name.partition("/") if not at else (name, "", "")
    if not name or not (alias or number):
        raise UserError(f"{address}: expected {SCHEME}NAME@ALIAS or {SCHEME}NAME/VERSION")
    uri = server.tracking_uri(root)
    try:
        own = server.client(uri)
        known = [f"{model.name}@{alias}" for model in own.search_registered_models() for alias in sorted(model.aliases)]
    except server.unreachable() as error:
        raise UserError(server.explain(uri, error)) from None
    try:
        version = own.get_model_version_by_alias(name, alias).version if alias else number
        source = own.get_model_version_download_uri(name, version)
        return Path(mlflow.artifacts.download_artifacts(artifact_uri=source, dst_path=str(into), tracking_uri=uri))
    except (*server.unreachable(), OSError) as error:
        raise UserError(
            f"{address}: cannot be had from {uri}: {' '.join(str(error).split())[:200]}. Registered are: "
            f"{', '.join(known) or 'none'}. `mem register STUDY` registers the best model of a study."
        ) from None

"""The error of a served model whose message MLflow's scoring server returns unchanged.

This module is separate from `server.py` and `mlflow_models.py`, because these set variables of MLflow's client, which
must not change in the process of a user who loads a model.
"""

from __future__ import annotations

from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE


class RefusedInput(MlflowException, ValueError):
    """An input that a served model cannot process. The server responds with status 400 and the message.

    For every other exception, the server's response contains a general text and a stack trace.
    """

    def __init__(self, message: str) -> None:
        self._message = message
        super().__init__(message, error_code=INVALID_PARAMETER_VALUE)

    @property
    def message(self) -> str:
        """The message. It cannot be replaced: the server would put the whole request before it."""
        return self._message

    @message.setter
    def message(self, message: str) -> None:
        pass

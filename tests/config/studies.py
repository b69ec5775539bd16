"""Functions that write a study to a file, and that return the error message raised when the study is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mem.config.load import load_study
from mem.errors import UserError


def write_study(folder: Path, values: dict) -> Path:
    """Write a study to `study.yaml` in a folder."""
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def error_message(folder: Path, values: dict) -> str:
    """Return the error message that is raised when the study is loaded."""
    with pytest.raises(UserError) as error:
        load_study([write_study(folder, values)])
    return str(error.value)

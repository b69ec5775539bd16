"""Absolute paths in settings. A report can be published, so that it shows only their last part."""

from __future__ import annotations

import re
from typing import Any

_ABSOLUTE_PATH = re.compile(r"(?P<kind>(local-dir:)?)~?/(.*/)?(?P<name>[^/\n]+)/*")
"""A path of this machine: a setting that is a file or folder, or a name of weights in a folder."""


def without_folders(value: Any) -> Any:
    """Return settings with only the last part of each absolute path.

    Args:
        value: A setting, or dictionaries and lists of settings.
    """
    if isinstance(value, dict):
        return {key: without_folders(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_folders(inner) for inner in value]
    if isinstance(value, str) and (found := _ABSOLUTE_PATH.fullmatch(value)):
        return f"{found['kind']}.../{found['name']}"
    return value

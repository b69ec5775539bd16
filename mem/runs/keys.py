"""Content of run keys: the settings that are part of a key, and digests of settings and files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mem.config import Dataset, Unkeyed

INITIAL_DIGEST = "initial digest"
"""Name of the setting that contains the digest of custom initial weights."""
MODULE_DIGEST = "module digest"
"""Name of the setting that contains the digest of a custom backbone's Python file."""


def digest(content: Any) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 hash of the content as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def file_digest(path: Path) -> str | None:
    """Return the first 12 hexadecimal digits of a file's SHA-256 hash, or None if the file cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
    return None


def index_digests(dataset: Dataset) -> dict[str, str]:
    """Return the digests of a dataset's lists and tables, which are part of run keys: an edited list changes the key.

    A missing file has no digest, so that a study can be planned before its data are downloaded.
    """
    digests: dict[str, str] = {}
    for name, path in dataset.index_files().items():
        if found := file_digest(Path(path)):
            digests[f"{name} list"] = found
    return digests


def keyed(value: Any) -> Any:
    """Return the part of a setting that determines the key, as JSON data.

    This part contains the settings that can change a result and differ from their default. A new setting with a default
    therefore changes no key. If a default changes, increase the versions of the affected stages.
    """
    if isinstance(value, BaseModel):
        return {name: keyed(getattr(value, name)) for name in _keyed_fields(value) if not _has_default(value, name)}
    if isinstance(value, Mapping):
        return {key: keyed(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(inner) for inner in value]
    return value


def defaults(value: Any) -> dict[str, Any]:
    """Return the settings that `keyed` omits because they have their default value, at any depth."""
    found: dict[str, Any] = {}
    if isinstance(value, BaseModel):
        for name in _keyed_fields(value):
            inner = getattr(value, name)
            if _has_default(value, name):
                found[name] = inner.model_dump(mode="json") if isinstance(inner, BaseModel) else keyed(inner)
            elif rest := defaults(inner):
                found[name] = rest
    elif isinstance(value, Mapping):
        found = {key: rest for key, inner in value.items() if (rest := defaults(inner))}
    return found


def unkeyed(value: BaseModel) -> dict[str, Any]:
    """Return the settings that are marked `Unkeyed` and are not None, at any depth."""
    found: dict[str, Any] = {}
    for name, info in type(value).model_fields.items():
        inner = getattr(value, name)
        if any(isinstance(mark, Unkeyed) for mark in info.metadata):
            if inner is not None:
                found[name] = inner.model_dump(mode="json") if isinstance(inner, BaseModel) else inner
        elif isinstance(inner, BaseModel) and (rest := unkeyed(inner)):
            found[name] = rest
    return found


def _keyed_fields(value: BaseModel) -> list[str]:
    fields = type(value).model_fields.items()
    return [name for name, info in fields if not any(isinstance(mark, Unkeyed) for mark in info.metadata)]


def _has_default(value: BaseModel, name: str) -> bool:
    return getattr(value, name) == type(value).model_fields[name].default

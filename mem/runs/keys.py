"""Content of run keys: the settings that are part of a key, and digests of settings and files."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from mem.config import Dataset, Glyphs, Section
from mem.config.base import marked_fields
from mem.runs.font_files import font_settings

INITIAL_DIGEST = "initial digest"
"""Name of the setting that contains the digest of custom initial weights."""
CLASS_EMBEDDINGS_DIGEST = "class embeddings digest"
"""Name of the setting that contains the digest of a file with class embeddings, or with the weights of a text model."""
MODULE_DIGEST = "module digest"
"""Name of the setting that contains the digest of a custom backbone's Python file."""

DIGEST_DIGITS = 12
"""Number of hexadecimal digits of a digest in a key."""

HOLDOUT = "holdout"
"""Name of the setting that specifies which training images a run holds out. Other runs do not have this setting."""
SPLIT = "split"
"""Name of the setting of an evaluate run that evaluates only one split."""
NORMALISATION = "normalisation"
"""Name of the setting that contains the mean and standard deviation of pixel values."""
START = "start"
"""Name of the setting of a head that starts from a classifier although its method can start from a new one."""
CENTER_CROP = "center crop"
"""Name of the setting that contains the center crop of a finetuned backbone's input: in a features run, and in a
finetune run whose initial classifier consists of class means, which are those of center crops."""
CROPS = "crops"
"""Name of the setting of a features run that computes only the crops of val and test whose logits are averaged. Runs
that read these features have an input of the same name."""
SHOT_COUNTS = "shot counts"
"""Name of the setting of a run whose shot groups are defined by the training images before a holdout. Its val split
contains the images of the holdout."""


def digest(content: Any) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 hash of the content as canonical JSON."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:DIGEST_DIGITS]


def file_digest(path: Path) -> str | None:
    """Return the first 12 hexadecimal digits of a file's SHA-256 hash, or None if the file cannot be read."""
    with contextlib.suppress(OSError), open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:DIGEST_DIGITS]
    return None


def index_digests(dataset: Dataset) -> dict[str, str]:
    """Return the digests of a dataset's lists, tables and fonts, which are part of run keys: an edit changes the key.

    A missing file has no digest, so that a study can be planned before its data are downloaded.
    """
    digests = font_settings(dataset.root) if isinstance(dataset, Glyphs) else {}
    for name, path in dataset.index_files().items():
        if found := file_digest(Path(path)):
            digests[f"{name} list"] = found
    return digests


def keyed(value: Any, stage: str) -> Any:
    """Return the part of a setting that determines the key of a run of a stage, as JSON data.

    This part contains the settings that can change a result and differ from their default. A new setting with a default
    therefore changes no key. If a default changes, increase the versions of the affected stages.
    """
    if isinstance(value, BaseModel):
        unused = _unkeyed_fields(value, stage)
        names = [name for name in type(value).model_fields if name not in unused and not _has_default(value, name)]
        return {name: keyed(getattr(value, name), stage) for name in names}
    if isinstance(value, Mapping):
        return {key: keyed(inner, stage) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [keyed(inner, stage) for inner in value]
    return value


def defaults(value: Any, stage: str) -> dict[str, Any]:
    """Return the settings that `keyed` omits because they have their default value, at any depth."""
    found: dict[str, Any] = {}
    if isinstance(value, BaseModel):
        for name in type(value).model_fields:
            inner = getattr(value, name)
            if _has_mark(value, name, stage):
                continue
            if _has_default(value, name):
                found[name] = inner.model_dump(mode="json") if isinstance(inner, BaseModel) else keyed(inner, stage)
            elif rest := defaults(inner, stage):
                found[name] = rest
    elif isinstance(value, Mapping):
        found = {key: rest for key, inner in value.items() if (rest := defaults(inner, stage))}
    return found


def unkeyed(value: BaseModel, stage: str) -> dict[str, Any]:
    """Return the settings that are not None and cannot change a result of a stage, at any depth."""
    found: dict[str, Any] = {}
    unused = _unkeyed_fields(value, stage)
    for name in type(value).model_fields:
        inner = getattr(value, name)
        if name in unused:
            if inner is not None and (_has_mark(value, name, stage) or not _has_default(value, name)):
                found[name] = inner.model_dump(mode="json") if isinstance(inner, BaseModel) else _as_json(inner)
        elif isinstance(inner, BaseModel) and (rest := unkeyed(inner, stage)):
            found[name] = rest
    return found


def _unkeyed_fields(value: BaseModel, stage: str) -> frozenset[str]:
    """Return the names of the settings that cannot change a result of a stage.

    The report shows all settings of a study, also those without an effect.
    """
    marked = marked_fields(type(value), stage)
    return marked | value.without_effect() if isinstance(value, Section) and stage != "report" else marked


def _has_mark(value: BaseModel, name: str, stage: str) -> bool:
    return name in marked_fields(type(value), stage)


def _as_json(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _has_default(value: BaseModel, name: str) -> bool:
    return getattr(value, name) == type(value).model_fields[name].default

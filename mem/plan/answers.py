"""Results of slow computations of `mem plan`, which a later call with the same question reads from a file.

The folder is `$MEM_PLAN_CACHE` or, if this variable is not set, `~/.cache/mem/plan`. With an empty variable, nothing is
stored. The folder can be deleted at any time. Files are replaced atomically, so several processes can use it. A folder
that cannot be written and a damaged file have no effect except that the result is computed again.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import mem
from mem import files

FOLDER_VARIABLE = "MEM_PLAN_CACHE"
_SOURCES = ("config", "heads", "models", "plan", "longtail.py")
"""Folders and files in `mem/` that determine the cost of a model. If they change, earlier answers are not used."""


def answers_folder() -> Path | None:
    """Return the folder for answers, or None if nothing is stored."""
    folder = os.environ.get(FOLDER_VARIABLE)
    if folder is None:
        with contextlib.suppress(RuntimeError):  # the user has no home folder
            return Path.home() / ".cache" / "mem" / "plan"
    return Path(folder) if folder else None


def remembered(question: Mapping[str, Any], compute: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
    """Return the stored answer to a question. If there is none, compute and store it.

    Args:
        question: JSON data that determine the answer, together with the versions of mem, PyTorch and timm.
        compute: Function that returns the answer as JSON data.
    """
    return answer if (answer := recall(question)) is not None else store(question, compute())


def recall(question: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return the stored answer to a question, or None if there is none."""
    folder = answers_folder()
    if folder is None:
        return None
    try:
        content = json.loads(_path(folder, question).read_text(encoding="utf-8"))
        return content["answer"] if content["question"] == _complete(question) else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store(question: Mapping[str, Any], answer: Mapping[str, Any]) -> Mapping[str, Any]:
    """Store the answer to a question where this is possible, and return the answer."""
    folder = answers_folder()
    if folder is not None:
        with contextlib.suppress(OSError):
            text = json.dumps({"question": _complete(question), "answer": answer}, indent=1)
            files.write_text(_path(folder, question), text + "\n")
    return answer


def _path(folder: Path, question: Mapping[str, Any]) -> Path:
    text = json.dumps(_complete(question), sort_keys=True)
    return folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.json"


def _complete(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question with the versions of everything that computes its answer."""
    return {**question, "versions": _versions()}


@cache
def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in ("torch", "timm", "torchvision")}
    return {"mem": _source_digest(), **packages}


def _source_digest() -> str:
    """Return a digest of the Python files in `_SOURCES`."""
    package = Path(mem.__file__).parent
    digest = hashlib.sha256()
    for name in _SOURCES:
        path = package / name
        for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
            digest.update(f"{file.relative_to(package)}\n".encode())
            digest.update(file.read_bytes())
    return digest.hexdigest()[:32]

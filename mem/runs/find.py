"""Find a run by its folder, by its key, by the first digits of its key, or by the name of its head."""

from __future__ import annotations

import os
import string
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mem.config.load import load_study
from mem.config.messages import suggestion
from mem.config.study_names import find_study
from mem.errors import UserError
from mem.runs.config_text import UNREADABLE, read_config_file
from mem.runs.dag import SELECT, study_runs
from mem.runs.keys import DIGEST_DIGITS

_MODEL_FILES = ("config.yaml", "run.json", "export.json", "MLmodel", "config.json", "model.onnx")
"""Files of which a folder contains at least one, if it is a run folder or a model in one of the export formats."""
_SHOWN = 10
"""Maximum number of runs in a message."""


def find_run(name: str, root: Path) -> Path:
    """Return the folder of a run, relative to `root`.

    A run is specified by one of:

    - its folder,
    - its key, or the first digits of its key,
    - the name of its head, if only one run in `runs/` trains a head of this name,
    - `STUDY:HEAD`, where STUDY is the path or the name of a study, if the study trains this head only once.

    In a study with `selection`, a name means the head that is trained on all training images.

    Raises:
        UserError: No run matches, or several runs match. The message lists them.
    """
    if name and os.path.isfile(root / name / "config.yaml"):
        return Path(name)
    study, colon, head = name.rpartition(":")
    if colon and study:
        return _head_of_study(study, head, root)
    matches = _matches(name, root)
    if len(matches) == 1:
        return next(iter(matches))
    if not matches:
        heads = sorted({str(labels.get("variant")) for _, labels in _heads(root)})
        raise UserError(
            f"{name or '(empty text)'}: not a run folder, not the beginning of a key in {root / 'runs'}, and not the "
            f"name of a head there{suggestion(name, heads)} `mem runs STUDY` lists the runs of a study with their keys."
        )
    raise UserError(
        f"{name}: {len(matches)} runs match. Specify one by its key, or by more digits of it:\n{_listed(matches)}"
    )


def existing_or_run(name: str, root: Path) -> Path:
    """Return the path of a model unchanged, the folder of a run, or else the path unchanged.

    A folder of the same name that contains no model does not hide a run.

    Raises:
        UserError: Several runs match.
    """
    path = root / name
    if os.path.isfile(path) or any(os.path.isfile(path / file) for file in _MODEL_FILES):
        return Path(name)
    is_head_of_study = ":" in name and not os.path.exists(path)
    return find_run(name, root) if is_head_of_study or _matches(name, root) else Path(name)


def _matches(name: str, root: Path) -> dict[Path, str]:
    """Return the folders of the runs with a key or head that `name` specifies, each with a description."""
    if not name:
        return {}
    is_digits = set(name) <= set(string.hexdigits.lower())
    by_key = [path for path in _run_folders(root) if _key(path).startswith(name)] if is_digits else []
    if is_digits and len(name) >= DIGEST_DIGITS:
        return dict.fromkeys(by_key, "")
    heads = {path: labels for path, labels in _heads(root) if labels.get("variant") == name}
    return dict.fromkeys(by_key, "") | {path: _described(heads[path]) for path in _final(heads)}


def _run_folders(root: Path, stage: str = "*") -> Iterator[Path]:
    for path in sorted(root.glob(f"runs/*/*/{stage}-*/config.yaml")):
        yield path.parent.relative_to(root)


def _key(folder: Path) -> str:
    return folder.name.rsplit("-", 1)[-1]


def _heads(root: Path) -> Iterator[tuple[Path, Mapping[str, Any]]]:
    """Yield the folder and the labels of each run that trains a head. Files that cannot be read are left out."""
    for folder in _run_folders(root, "train_head"):
        try:
            content = read_config_file(root / folder / "config.yaml")
        except UNREADABLE:
            continue
        if isinstance(content, Mapping) and isinstance(labels := content.get("labels"), Mapping):
            yield folder, labels


def _final(heads: Mapping[Path, Mapping[str, Any]]) -> list[Path]:
    """Return the runs without those of the branch `select`, unless there are no others."""
    final = [path for path, labels in heads.items() if labels.get("branch") != SELECT]
    return final or list(heads)


def _described(labels: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in labels.items())


def _listed(matches: Mapping[Path, str]) -> str:
    lines = [f"  {path}  {description}".rstrip() for path, description in list(matches.items())[:_SHOWN]]
    return "\n".join([*lines, *([f"  and {len(matches) - _SHOWN} more"] if len(matches) > _SHOWN else [])])


def _head_of_study(study: str, head: str, root: Path) -> Path:
    """Return the folder of the run that trains a head of a study. The run may have no folder yet.

    Raises:
        UserError: There is no such study or head, or the study trains the head several times.
    """
    loaded = load_study([find_study(study)])
    runs = {run.folder: run.labels for run in study_runs(loaded) if run.stage == "train_head"}
    heads = {path: labels for path, labels in runs.items() if labels["variant"] == head}
    found = {path: _described(heads[path]) for path in _final(heads)}
    if not found:
        names = dict.fromkeys(str(labels["variant"]) for labels in runs.values())
        raise UserError(
            f"{study}:{head}: study {loaded.study} has no head {head or '(empty text)'}. Its heads: {', '.join(names)}."
        )
    if len(found) > 1:
        raise UserError(
            f"{study}:{head}: study {loaded.study} trains this head {len(found)} times. Specify one run by its key:\n"
            f"{_listed(found)}"
        )
    (folder,) = found
    if not (root / folder / "config.yaml").is_file():
        raise UserError(f"{study}:{head}: {folder} does not exist in {root.resolve()}. Run the study first.")
    return folder

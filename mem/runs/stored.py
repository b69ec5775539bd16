"""The runs that are stored in `runs/`: their folders, inputs, sizes and locks.

Runs that are links, or that lie behind links, are read, because other runs are their inputs, but they are not removed.
Folders that mem did not write are left out.
"""

from __future__ import annotations

import fnmatch
import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from mem import files
from mem.runs.config_text import UNREADABLE, read_config_file
from mem.runs.dag import STAGES
from mem.runs.folder import RunFolder
from mem.runs.outputs import (
    BATCH_NORM_STATISTICS,
    CLASSIFIER,
    OUTPUT_FILES,
    POOLED_FEATURES,
    TOKENS,
)

_FOLDER_NAME = re.compile(rf"({'|'.join(STAGES)})-([0-9a-f]{{12}})")
_OTHER_FILES = (
    *("config.yaml", "site.yaml", "run.json", "run.lock", "log.jsonl", "log-*.jsonl", "rank-*.jsonl"),
    *("progress.json", "checkpoints", "unfinished", "reconstructions", "contact_sheet*.png", "histogram*.png"),
    *("batch-norm*.safetensors", "unfinished-*", ".*.partial", ".*.tmp", ".nfs*"),
)
"""Patterns for the names of files that any stage, or `mem data show`, writes to a run folder. A stage that is killed
leaves `progress.json`."""
_KNOWN_FILES = (
    *(name for names in OUTPUT_FILES.values() for name in names),
    *(*POOLED_FEATURES, *TOKENS, CLASSIFIER, BATCH_NORM_STATISTICS),
    *_OTHER_FILES,
)


@dataclass(frozen=True)
class StoredRun:
    """A run folder in `runs/`."""

    folder: Path
    """Path relative to the working folder."""
    stage: str
    key: str
    labels: Mapping[str, Any]
    inputs: tuple[str, ...]
    """Keys of the runs that this run reads."""
    link: Path | None = None
    """The link below `runs/` that leads to the folder, or None."""

    @property
    def description(self) -> str:
        """The labels as text."""
        return ", ".join(f"{name} {value}" for name, value in self.labels.items())


def stored_runs(root: Path) -> tuple[list[StoredRun], list[str]]:
    """Return the runs in `runs/`, and a sentence about each folder that has the name of a run but is none.

    Args:
        root: The working folder.
    """
    runs: list[StoredRun] = []
    others: list[str] = []
    for path in _run_folders(root / "runs"):
        folder = path.relative_to(root)
        if isinstance(found := _read(root, folder), StoredRun):
            runs.append(found)
        else:
            others.append(f"{folder}: {found}")
    return runs, others


def _run_folders(runs: Path) -> Iterator[Path]:
    """Yield the folders, and the links, that have the name of a run."""
    for dataset in _folders_in(runs):
        for backbone in _folders_in(dataset):
            with os.scandir(backbone) as entries:
                names = sorted(entry.name for entry in entries if _FOLDER_NAME.fullmatch(entry.name))
            yield from (backbone / name for name in names)


def _folders_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return sorted(Path(entry.path) for entry in entries if entry.is_dir() and not entry.name.startswith("."))


def _read(root: Path, folder: Path) -> StoredRun | str:
    """Return a run, or a description of the reason why the folder is none."""
    path = root / folder
    found = _FOLDER_NAME.fullmatch(path.name)
    assert found is not None
    stage, key = found.groups()
    if not path.is_dir():
        return "this is not a folder"
    try:
        content = read_config_file(path / "config.yaml")
        labels, inputs = content["labels"], content["inputs"]
        if (content["stage"], content["key"]) != (stage, key):
            return f"its config.yaml is that of run {content['stage']}-{content['key']}"
        keys = tuple(str(value).rsplit("-", 1)[1] for value in inputs.values())
        dataset, backbone = folder.parents[1], folder.parent
        link = next((name for name in (dataset, backbone, folder) if (root / name).is_symlink()), None)
        return StoredRun(folder, stage, key, dict(labels), keys, link)
    except (*UNREADABLE, KeyError, TypeError, ValueError, AttributeError, IndexError):
        return "its config.yaml is missing or cannot be read, so it is unknown what depends on it"


def foreign_files(path: Path) -> list[str]:
    """Return the names of the files in a run folder that no stage writes."""
    return sorted(
        name
        for name in os.listdir(path)
        if (path / name).is_symlink() or not any(fnmatch.fnmatchcase(name, known) for known in _KNOWN_FILES)
    )


def dependents(runs: Iterable[StoredRun], keys: Iterable[str]) -> list[StoredRun]:
    """Return the runs that read runs with the given keys, directly or indirectly, without those runs themselves."""
    runs, start = list(runs), set(keys)
    found: dict[str, StoredRun] = {}
    new = set(start)
    while new:
        readers = [run for run in runs if run.key not in found and new.intersection(run.inputs)]
        found |= {run.key: run for run in readers}
        new = {run.key for run in readers}
    return [run for key, run in found.items() if key not in start]


def with_inputs(runs: Iterable[StoredRun], keys: Iterable[str]) -> set[str]:
    """Return the given keys, and the keys of all direct and indirect inputs of these runs."""
    inputs = {run.key: run.inputs for run in runs}
    found: set[str] = set()
    new = set(keys)
    while new:
        found |= new
        new = {key for each in new for key in inputs.get(each, ())} - found
    return found


def dependents_first(runs: Iterable[StoredRun]) -> list[StoredRun]:
    """Sort runs so that each run precedes its inputs."""
    ranks = {stage: rank for rank, stage in enumerate(STAGES)}
    return sorted(runs, key=lambda run: -ranks[run.stage])


def try_lock(path: Path) -> IO[str] | None:
    """Lock a run folder without waiting. The lock ends when the returned file is closed.

    Returns:
        The open lock file; None if a process works in the folder.
    """
    # The file is created if it is missing, because otherwise a stage could start between this test and the removal.
    file = open(RunFolder(path).lock, "a+", encoding="utf-8")
    if files.try_lock(file) is False:
        file.close()
        return None
    return file


def locked_keys(runs: Iterable[StoredRun], root: Path) -> dict[str, str]:
    """Return the keys of the runs in which a process works, with a description of each process."""
    found: dict[str, str] = {}
    for run in runs:
        path = RunFolder(root / run.folder).lock
        if not path.is_file() or path.is_symlink():
            continue
        with open(path, encoding="utf-8") as file:
            if files.try_lock(file, shared=True) is False:
                found[run.key] = file.read().strip() or "another process"
    return found


def size_and_use(path: Path) -> tuple[int, float]:
    """Return the size of a folder in bytes, and the time at which a file in it was last written.

    Links are counted, not followed.
    """
    size, newest = 0, 0.0
    for folder, _, names in os.walk(path):
        for name in names:
            status = os.lstat(os.path.join(folder, name))
            size += status.st_size
            if stat.S_ISREG(status.st_mode) and name != "run.lock":
                newest = max(newest, status.st_mtime)
    return size, newest or os.lstat(path).st_mtime

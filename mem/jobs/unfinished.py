"""What interrupted attempts of a run left in its folder: checkpoints, features of a part of the images, statistics."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from mem import files
from mem.data.features.writer import UNFINISHED_FOLDER
from mem.runs.folder import RunFolder, read_record

UNFINISHED_STATISTICS = "unfinished-batch-norm.safetensors"
"""Name of the file of BatchNorm statistics while features are computed. Snakemake deletes only the finished file of a
run that fails, so that the resumed run uses the same statistics."""
RESUMABLE_STAGES = frozenset({"pretrain", "finetune", "features", "adapt", "train_head"})
"""Stages that resume from what an interrupted attempt left, and that have other runs as inputs."""
INPUTS_FILE = "unfinished-inputs.json"
"""Name of the file that identifies the inputs from which an unfinished run computes its results."""


def discard_for_other_inputs(folder: RunFolder, inputs: Mapping[str, Path], say: Callable[[str], None]) -> None:
    """Remove what earlier attempts left if an input was computed again since then, and record the inputs.

    A repeated run has the same key, but its results can differ, for example on another processor. Without this check,
    a resumed run would combine results of both. Call this on rank 0, which holds the lock of the folder.

    Args:
        folder: The run folder.
        inputs: Folders of the finished input runs by name.
        say: Function that prints a message.
    """
    started = {name: read_record(path).get("started") for name, path in inputs.items()}
    path = folder.path / INPUTS_FILE
    try:
        recorded = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        recorded = started  # the first attempt, or one of an earlier version
    if recorded != started:
        again = [name for name in started if not isinstance(recorded, dict) or recorded.get(name) != started[name]]
        say(f"Starting from the beginning, because these inputs were computed again: {', '.join(again)}.")
        remove_unfinished(folder)
    if started:
        files.write_text(path, json.dumps(started) + "\n", durable=False)


def remove_unfinished(folder: RunFolder) -> None:
    """Remove what attempts left. Call this on rank 0, after the run is finished or if nothing of it can be used."""
    for name in (folder.checkpoints, folder.path / UNFINISHED_FOLDER):
        if name.is_dir():
            shutil.rmtree(name)
    for file in (UNFINISHED_STATISTICS, INPUTS_FILE):
        (folder.path / file).unlink(missing_ok=True)

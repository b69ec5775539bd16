"""Initial weights at the start of a workflow, because jobs on compute nodes have no internet access."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from mem.config import Study
from mem.errors import printable
from mem.models.weights.prepare import download_command, fetch_weights
from mem.plan.known_costs import check_backbone
from mem.runs.dag import Run
from mem.runs.keys import CROPS
from mem.runs.outputs import missing_files

REQUIRED = ("huggingface_hub", "torch", "timm", "safetensors")
"""Packages that the download and the check require, and that the environment of a workflow process may lack."""


def prepare_initial_weights(study: Study, runs: Sequence[Run], say: Callable[[str], None]) -> None:
    """Download the initial weights of a study, and check that they fit its backbone, unless all runs have used them.

    Args:
        study: The study. The commit of weights on the hub is specified (see `require_revision`).
        runs: Its runs.
        say: Called with messages.

    Raises:
        UserError: The weights cannot be downloaded, or do not fit.
    """
    if study.initial is None or not _are_needed(study, runs):
        return
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        command = download_command(study.initial)
        then = f", and not downloaded. Run this in the environment of the stages first: {command}" if command else "."
        say(f"This environment lacks {', '.join(missing)}. The initial weights are therefore not checked here{then}")
        return
    said: list[str] = []

    def say_once(text: str) -> None:
        if text not in said:
            said.append(text)
            say(printable(text))  # contains texts of the publishers of the weights

    fetch_weights(study.initial, say_once)
    for line in _check_in_another_process(study).splitlines():
        say_once(line)  # the download has already warned of the licence


def _check_in_another_process(study: Study) -> str:
    """Check a study's backbone and weights. This process does not import PyTorch, which it would keep for days."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(check_backbone, study).result()


def _are_needed(study: Study, runs: Sequence[Run]) -> bool:
    """Return whether an unfinished run reads the initial weights."""
    # Without stored features, each head computes them.
    online = study.features is not None and study.features.online
    return any(missing_files(run) for run in runs if online or _reads_weights(run))


def _reads_weights(run: Run) -> bool:
    """Return whether a run reads the initial weights: as a setting, or for several crops as its features run does."""
    return "initial" in (run.inputs["features"] if CROPS in run.settings else run).settings

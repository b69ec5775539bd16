"""The runs of the mini study, and of one with another head, in a working folder (see conftest.py)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from mem.config.load import load_study
from mem.runs.dag import Run, study_runs
from mem.runs.stored import stored_runs
from tests.conftest import REPOSITORY

MINI = REPOSITORY / "tests" / "mini.yaml"
CHANGED = {"heads": {"mem": {"xi": 35.0}}}


def yes(question: str) -> bool:
    return True


@cache
def planned(changed: bool) -> list[Run]:
    return study_runs(load_study([MINI], CHANGED if changed else {}))


def runs_of(changes: dict | None = None) -> list[Run]:
    return planned(bool(changes))


def find(stage: str, variant: str = "mem", changes: dict | None = None) -> Run:
    return next(
        run
        for run in runs_of(changes)
        if run.stage == stage and (stage not in ("train_head", "evaluate") or run.labels["variant"] == variant)
    )


def stored(root: Path) -> set[str]:
    return {run.key for run in stored_runs(root)[0]}

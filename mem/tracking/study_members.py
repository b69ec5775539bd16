"""The runs of a study, found from the start event of its report. The logs of the runs name their inputs."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mem.runs.folder import RunFolder
from mem.tracking.artifacts import input_folder
from mem.tracking.log import read_identity

_EVALUATION = re.compile(r"(?P<head>.+)-o\d+-s\d+(?P<select>-select)?")
"""Name of an evaluation among the inputs of a report (see `mem.runs.dag`)."""


@dataclass(frozen=True)
class Member:
    """A run of a study that has an MLflow run of its own."""

    log_id: str
    """Id of the run's log, by which the mirror finds the MLflow run."""
    start: Mapping[str, Any]
    """Start event of the run's log."""
    head: str = ""
    """Name of the head in this study, whose scores on test the report contains; empty for all other runs."""

    @property
    def stage(self) -> str:
        """Stage of the run."""
        return self.start["stage"]


def study_members(root: Path, report: Mapping[str, Any]) -> list[Member]:
    """Return the heads of a study and the runs that they depend on. Runs without a log are omitted.

    In a study with branches, the heads of the branch `select` are omitted, because they have no scores on test.

    Args:
        root: The working folder.
        report: Start event of the log of the study's report.
    """
    members: dict[str, Member] = {}
    pending: list[str] = []
    for name, folder in report["inputs"].items():
        found = _EVALUATION.fullmatch(name)
        evaluation = _read(root, folder)
        if found is None or evaluation is None or "head" not in (inputs := evaluation.start["inputs"]):
            continue
        pending += [inputs[name] for name in inputs if name != "head"]
        head = _read(root, inputs["head"])
        if head is None:
            continue
        pending += head.start["inputs"].values()
        if not found["select"]:
            members[inputs["head"]] = Member(head.log_id, head.start, found["head"])
    while pending:
        folder = pending.pop()
        member = None if folder in members else _read(root, folder)
        if member is not None and member.stage not in ("train_head", "evaluate"):
            members[folder] = member
            pending += member.start["inputs"].values()
    return list(members.values())


def _read(root: Path, folder: str) -> Member | None:
    """Return a run, or None if it has no readable log in the working folder."""
    try:
        log_id, start = read_identity(RunFolder(input_folder(root, folder)).log)
    except (OSError, ValueError):
        return None
    return None if log_id is None or start is None or start["event"] != "start" else Member(log_id, start)

"""Sections of the report about single classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mem.config import Study
from mem.report.collect import StudyResults
from mem.report.page import Section
from mem.runs.dag import Run


def class_sections(
    study: Study, runs: Sequence[Run], manifest: Mapping[str, Any], results: StudyResults
) -> list[Section]:
    """Return the sections about single classes.

    Args:
        study: The study.
        runs: All runs of the study except the report.
        manifest: Recorded results of the convert run.
        results: Scores of all heads.
    """
    return []

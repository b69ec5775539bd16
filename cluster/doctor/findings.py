"""Findings: the result of a check, in one line."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class Finding:
    """The result of one check."""

    status: Status
    check: str
    found: str
    advice: str = ""
    """What to do; empty if nothing is wrong."""

    def line(self) -> str:
        """Format the finding for the terminal."""
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.status:<4}  {self.check:<12}  {' '.join(self.found.split())}{advice}"


def ok(check: str, found: str) -> Finding:
    """Report that nothing is wrong."""
    return Finding("OK", check, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """Report a problem that limits runs but does not prevent them."""
    return Finding("WARN", check, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """Report a problem that prevents runs."""
    return Finding("FAIL", check, found, advice)


def as_json(findings: Sequence[Finding]) -> str:
    """Return all findings, and whether the site passed, as JSON."""
    return json.dumps({"ok": passed(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def passed(findings: Sequence[Finding]) -> bool:
    """Return whether no finding is a failure."""
    return all(finding.status != "FAIL" for finding in findings)

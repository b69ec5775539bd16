"""What a check found, in one line."""

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
    """What to do; empty where all is well."""

    def line(self) -> str:
        """For the terminal."""
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.status:<4}  {self.check:<12}  {' '.join(self.found.split())}{advice}"


def ok(check: str, found: str) -> Finding:
    """All is well."""
    return Finding("OK", check, found)


def warn(check: str, found: str, advice: str) -> Finding:
    """Runs will work, with a drawback."""
    return Finding("WARN", check, found, advice)


def fail(check: str, found: str, advice: str) -> Finding:
    """Runs will not work."""
    return Finding("FAIL", check, found, advice)


def as_json(findings: Sequence[Finding]) -> str:
    """All findings, and whether none is a failure."""
    return json.dumps({"ok": passed(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def passed(findings: Sequence[Finding]) -> bool:
    """Whether none is a failure."""
    return all(finding.status != "FAIL" for finding in findings)

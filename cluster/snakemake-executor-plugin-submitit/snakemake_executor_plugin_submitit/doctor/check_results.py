"""Results of the doctor's checks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

Status = Literal["OK", "WARN", "FAIL"]


@dataclass(frozen=True)
class CheckResult:
    """The result of one check."""

    status: Status
    check: str
    found: str
    advice: str = ""
    """How to fix the problem; empty if the check passed."""

    def line(self) -> str:
        """Format the result as one line for the terminal."""
        advice = f" -> {self.advice}" if self.advice else ""
        return f"{self.status:<4}  {self.check:<12}  {' '.join(self.found.split())}{advice}"


def ok(check: str, found: str) -> CheckResult:
    """Return the result of a check that passed."""
    return CheckResult("OK", check, found)


def warn(check: str, found: str, advice: str) -> CheckResult:
    """Return the result of a check that found a problem that limits runs but does not prevent them."""
    return CheckResult("WARN", check, found, advice)


def fail(check: str, found: str, advice: str) -> CheckResult:
    """Return the result of a check that found a problem that prevents runs."""
    return CheckResult("FAIL", check, found, advice)


def as_json(findings: Sequence[CheckResult]) -> str:
    """Format all results as JSON, in which `ok` is true if no check failed."""
    return json.dumps({"ok": passed(findings), "findings": [asdict(finding) for finding in findings]}, indent=2)


def passed(findings: Sequence[CheckResult]) -> bool:
    """Return whether no check failed."""
    return all(finding.status != "FAIL" for finding in findings)

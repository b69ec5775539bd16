"""Findings of a dataset check, each with a severity and advice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from mem.data.datasets.problems import MAX_EXAMPLES, printable


class Severity(IntEnum):
    """Severity of a finding."""

    ERROR = 0
    """The dataset cannot be used."""
    WARNING = 1
    """The dataset can be used, but may not be the intended one."""
    NOTE = 2
    """For information; no action is needed."""


HEADINGS = {Severity.ERROR: "ERRORS", Severity.WARNING: "WARNINGS", Severity.NOTE: "NOTES"}


@dataclass(frozen=True)
class Finding:
    """A finding of a dataset check."""

    severity: Severity
    text: str
    """One sentence that states the problem and the number of cases."""
    examples: tuple[str, ...] = ()
    """The first cases, as examples."""
    advice: str = ""
    """What the user can do about it."""

    def lines(self) -> list[str]:
        """Return the lines to print."""
        separator = "; " if any(", " in example for example in self.examples) else ", "
        examples = f": {separator.join(map(printable, self.examples))}" if self.examples else "."
        return [f"  {self.text}{examples}", *([f"    {self.advice}"] if self.advice else [])]


@dataclass
class Findings:
    """All findings of a dataset check, and the checks that passed."""

    found: list[Finding] = field(default_factory=list)
    passed: list[str] = field(default_factory=list)
    """One line per check without a finding."""

    def add(
        self, severity: Severity, text: str, examples: Sequence[str] = (), *, advice: str = "", count: int | None = None
    ) -> None:
        """Add a finding with its first examples. Pass `count`, the number of cases, if `examples` is incomplete."""
        kept = list(examples[:MAX_EXAMPLES])
        more = (len(examples) if count is None else count) - len(kept)
        if kept and more > 0:
            kept[-1] += f" and {more:,} more"
        self.found.append(Finding(severity, text, tuple(kept), advice))

    def of(self, severity: Severity) -> list[Finding]:
        """Return the findings with the given severity."""
        return [finding for finding in self.found if finding.severity == severity]

    @property
    def status(self) -> int:
        """Exit status: 1 if there are errors or warnings, else 0."""
        return int(any(finding.severity != Severity.NOTE for finding in self.found))

    def lines(self) -> list[str]:
        """Return the lines to print: findings, most serious first, then the checks that passed."""
        lines: list[str] = []
        for severity, heading in HEADINGS.items():
            if findings := self.of(severity):
                lines += [heading, *(line for finding in findings for line in finding.lines())]
        return [*lines, *(["PASSED", *(f"  {text}" for text in self.passed)] if self.passed else [])]


def counted(count: int, singular: str, plural: str) -> str:
    """Format a count with the singular or plural form of a noun phrase."""
    return f"{count:,} {singular if count == 1 else plural}"


def first_few(values: Sequence[object], limit: int = 3) -> str:
    """Format the first values, separated by commas."""
    return ", ".join(map(str, values[:limit])) + (", …" if len(values) > limit else "")

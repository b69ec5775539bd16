"""What a check of a data set finds: sentences, ordered by gravity, with what to do about each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from mem.data.datasets.problems import MAX_EXAMPLES, printable


class Severity(IntEnum):
    """How much a finding matters."""

    WRONG = 0
    """The data set cannot be used as it is."""
    DOUBTFUL = 1
    """It can be used, but may be another one than was meant."""
    NOTE = 2
    """Worth knowing; nothing to do."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    gravity: Severity
    text: str
    """What was found and how many, in one sentence."""
    examples: tuple[str, ...] = ()
    """The first few of them."""
    advice: str = ""
    """What to do about it."""

    def lines(self) -> list[str]:
        """As printed."""
        separator = "; " if any(", " in example for example in self.examples) else ", "
        named = f": {separator.join(map(printable, self.examples))}" if self.examples else "."
        return [f"  {self.text}{named}", *([f"    {self.advice}"] if self.advice else [])]


@dataclass
class Findings:
    """All that a check found, and what it found in order."""

    found: list[Finding] = field(default_factory=list)
    fine: list[str] = field(default_factory=list)
    """What was looked at and is as it should be."""

    def add(
        self, gravity: Severity, text: str, examples: Sequence[str] = (), *, advice: str = "", count: int | None = None
    ) -> None:
        """Take up a finding; of its examples the first few are kept, `count` says how many there are in all."""
        named = list(examples[:MAX_EXAMPLES])
        more = (len(examples) if count is None else count) - len(named)
        if named and more > 0:
            named[-1] += f" and {more:,} more"
        self.found.append(Finding(gravity, text, tuple(named), advice))

    def of(self, gravity: Severity) -> list[Finding]:
        """Findings of one gravity."""
        return [finding for finding in self.found if finding.gravity == gravity]

    @property
    def status(self) -> int:
        """Exit status: 1 where something is wrong or doubtful."""
        return int(any(finding.gravity != Severity.NOTE for finding in self.found))

    def lines(self) -> list[str]:
        """The gravest first, then what is fine."""
        lines: list[str] = []
        for gravity, title in zip(Severity, ("WRONG", "DOUBTFUL", "NOTED"), strict=True):
            if findings := self.of(gravity):
                lines += [title, *(line for finding in findings for line in finding.lines())]
        return [*lines, *(["FINE", *(f"  {text}" for text in self.fine)] if self.fine else [])]


def number(count: int, one: str, many: str) -> str:
    """A count with its noun and verb."""
    return f"{count:,} {one if count == 1 else many}"


def few(values: Sequence[object], named: int = 3) -> str:
    """The first of some values."""
    return ", ".join(map(str, values[:named])) + (", …" if len(values) > named else "")

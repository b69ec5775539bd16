"""Collector that reports all problems with an input in one error message."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from mem.errors import UserError

MAX_EXAMPLES = 5
"""Maximum number of examples listed for each kind of problem."""


class Problems:
    """Problems with one input, grouped by kind. Each kind has a count and its first examples.

    >>> problems = Problems("list.txt")
    >>> problems.add("lines without a label", "line 3: a.jpg")
    >>> problems.raise_if_any()
    Traceback (most recent call last):
    mem.errors.UserError: list.txt: lines without a label (1): line 3: a.jpg
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._advice: dict[str, str] = {}

    def add(self, kind: str, example: str, advice: str = "") -> None:
        """Add one problem.

        Args:
            kind: Plural noun phrase that describes the problem, such as "lines without a label".
            example: Location of the problem.
            advice: What was expected, or how to fix the problem.
        """
        self.add_many(kind, [example], 1, advice)

    def add_many(self, kind: str, examples: Iterable[str], count: int, advice: str = "") -> None:
        """Add `count` problems of one kind. Only the examples that the message lists are consumed."""
        self._counts[kind] = self._counts.get(kind, 0) + count
        kept = self._examples.setdefault(kind, [])
        kept += [printable(example) for example in islice(examples, MAX_EXAMPLES - len(kept))]
        self._advice[kind] = advice

    def __bool__(self) -> bool:
        return bool(self._counts)

    def raise_if_any(self) -> None:
        """Raise an error if any problem was added.

        Raises:
            UserError: There are problems. The message lists each kind with its count and first examples.
        """
        if not self:
            return
        lines = []
        for kind, count in self._counts.items():
            examples = self._examples[kind]
            more = f" and {count - len(examples):,} more" if count > len(examples) else ""
            advice = f". {self._advice[kind]}" if self._advice[kind] else ""
            lines.append(f"{kind} ({count:,}): {', '.join(examples)}{more}{advice}")
        if len(lines) == 1:
            raise UserError(f"{self.subject}: {lines[0]}")
        raise UserError("\n".join([f"{self.subject}:", *(f"  {line}" for line in lines)]))


def printable(text: str) -> str:
    """Escape bytes that are not valid UTF-8 (surrogates), so that the text can be printed."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

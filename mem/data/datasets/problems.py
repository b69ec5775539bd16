"""Everything that is wrong with an input, in one message: each kind counted, the first few named."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice

from mem.errors import UserError

MAX_EXAMPLES = 5
"""Examples of each kind of fault that a message names."""


class Problems:
    """Faults of one input, by kind.

    >>> faults = Faults("list.txt")
    >>> faults.add("lines without a label", "line 3: a.jpg")
    >>> faults.raise_if_any()
    Traceback (most recent call last):
    mem.errors.UserError: list.txt: 1 lines without a label: line 3: a.jpg
    """

    def __init__(self, subject: str) -> None:
        self.subject = subject
        self._counts: dict[str, int] = {}
        self._examples: dict[str, list[str]] = {}
        self._advice: dict[str, str] = {}

    def add(self, kind: str, example: str, advice: str = "") -> None:
        """Count a fault; `kind` is a plural ("lines without a label"), `advice` says what to do about it."""
        self.add_all(kind, [example], 1, advice)

    def add_all(self, kind: str, examples: Iterable[str], count: int, advice: str = "") -> None:
        """Count faults of one kind, of which no more examples are taken than are named."""
        self._counts[kind] = self._counts.get(kind, 0) + count
        named = self._examples.setdefault(kind, [])
        named += [printable(example) for example in islice(examples, MAX_EXAMPLES - len(named))]
        self._advice[kind] = advice

    def __bool__(self) -> bool:
        return bool(self._counts)

    def raise_if_any(self) -> None:
        """End here if there is a fault.

        Raises:
            UserError: All kinds, with their counts and first examples.
        """
        if not self:
            return
        lines = []
        for kind, count in self._counts.items():
            examples = self._examples[kind]
            more = f" and {count - len(examples):,} more" if count > len(examples) else ""
            advice = f". {self._advice[kind]}" if self._advice[kind] else ""
            lines.append(f"{count:,} {kind}: {', '.join(examples)}{more}{advice}")
        if len(lines) == 1:
            raise UserError(f"{self.subject}: {lines[0]}")
        raise UserError("\n".join([f"{self.subject}:", *(f"  {line}" for line in lines)]))


def printable(text: str) -> str:
    """A name that may hold bytes that are no UTF-8, as a terminal can show it."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")

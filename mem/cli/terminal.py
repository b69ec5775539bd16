"""Output streams of the command `mem` on a terminal."""

from __future__ import annotations

import sys
from typing import Any

from mem.errors import printable


class PrintableStream:
    """A text stream that escapes control characters, which names and texts from files may contain.

    A carriage return is kept, because progress bars use it.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str, /) -> int:
        """Write a text, and return the number of its characters."""
        self._stream.write(printable(text, keep="\r"))
        return len(text)

    def writelines(self, lines: Any, /) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect_terminal() -> None:
    """Escape control characters in everything that this process prints on a terminal.

    Files and pipes receive the unchanged text, because programs read it.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, PrintableStream) and stream.isatty():
            setattr(sys, name, PrintableStream(stream))

"""Messages of a stage on the terminal and in its log file."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from pathlib import Path

from mem.errors import printable


@contextlib.contextmanager
def message_handlers(logger: logging.Logger, path: Path | None, rank: int) -> Iterator[None]:
    """Write messages to the terminal and, with timestamps and debug messages, to the log file.

    Ranks other than 0 use separate log files, and print only warnings and errors on the terminal.

    Raises:
        OSError: The log file cannot be opened.
    """
    terminal = logging.StreamHandler()
    terminal.setFormatter(_PrintableFormatter("%(message)s"))
    terminal.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    handlers: list[logging.Handler] = [terminal]
    if path is not None:
        rank_path = path if rank == 0 else path.with_name(f"{path.name}.rank{rank}")
        rank_path.parent.mkdir(parents=True, exist_ok=True)
        file = _MessageFile(rank_path, mode="a", encoding="utf-8")
        file.setFormatter(_PrintableFormatter("%(asctime)s %(message)s"))
        handlers.append(file)
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    for handler in handlers:
        logger.addHandler(handler)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()


class _PrintableFormatter(logging.Formatter):
    """Formatter that escapes control characters, which names and texts from files may contain."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


class _MessageFile(logging.FileHandler):
    """Log file. If it cannot be written, for example because the disk is full, one message reports this.

    The stage continues, and its messages are still shown on the terminal.
    """

    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        if not self._reported:
            self._reported = True
            print(f"{self.baseFilename}: messages cannot be written: {sys.exc_info()[1]}", file=sys.stderr)

    def close(self) -> None:
        with contextlib.suppress(OSError):  # the file still contains text that could not be written
            super().close()

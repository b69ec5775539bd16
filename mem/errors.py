"""Exceptions whose messages are shown to the user, and texts that are safe to show."""

import re
from collections.abc import Sequence

EXAMPLES = 5
"""Number of values that `first_of` returns."""
_UNPRINTABLE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters except tabs and line breaks, characters that change the direction of text, and surrogates."""


def printable(text: str, keep: str = "") -> str:
    r"""Replace characters that control a terminal by escape sequences such as `\x1b`.

    Names of files and classes, and texts from files of other people, may contain such characters. They could move the
    cursor, hide or replace text, or change the title of the window.

    Args:
        text: The text. Tabs and line breaks are kept. Bytes of file names that are not valid UTF-8 are written as
            `\xff`.
        keep: Additional characters to keep.
    """
    return _UNPRINTABLE.sub(lambda found: found[0] if found[0] in keep else _escape(found[0]), text)


def first_of(values: Sequence[object]) -> str:
    """Return the first values of a list, for messages, with dots if there are more."""
    return ", ".join(map(str, values[:EXAMPLES])) + (", ..." if len(values) > EXAMPLES else "")


def _escape(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name, see os.fsdecode
        code -= 0xDC00
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


class UserError(Exception):
    """A problem that the user can fix, such as a wrong setting, a missing path or a full disk.

    The message describes the problem and its location, states what was expected, and explains what to do next. The
    `mem` command prints the message without a traceback and exits with status 2. Control characters in the message are
    escaped (see `printable`).
    """

    def __str__(self) -> str:
        return printable(super().__str__())


class Stopped(BaseException):
    """A stage stopped on request, after saving a checkpoint if it supports checkpoints.

    A signal handler raises it, possibly within a library. Like KeyboardInterrupt, it is not an Exception, because an
    `except Exception` there would lose the request: `logging`, for example, prints each Exception and continues.
    """

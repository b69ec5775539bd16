"""Exceptions whose messages are shown to the user."""


class UserError(Exception):
    """A problem that the user can fix, such as a wrong setting, a missing path or a full disk.

    The message describes the problem and its location, states what was expected, and explains what to do next. The
    `mem` command prints the message without a traceback and exits with status 2.
    """


class Stopped(Exception):
    """A stage stopped on request, after saving a checkpoint if it supports checkpoints."""

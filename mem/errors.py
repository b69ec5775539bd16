"""Exceptions whose messages are shown to the user."""


class UserError(Exception):
    """A problem that the user can fix, such as a wrong setting, a missing path or a full disk.

    The message describes the problem, its location, what was expected and what to do next. The command line prints the
    message without a traceback and exits with status 2.
    """


class Stopped(Exception):
    """A stage stopped on request, after saving a checkpoint if it supports checkpoints."""

"""Exceptions whose messages address the user."""


class UserError(Exception):
    """A problem that the user can fix, such as a wrong setting, a missing path or a full disk.

    The message states what was found, where, what was expected and what to do next. The command line prints it without
    a traceback and exits with status 2.
    """


class Stopped(Exception):
    """A stage stopped on request, after saving a checkpoint where it can."""

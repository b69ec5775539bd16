"""The exceptions whose message is meant for the user."""


class UserError(Exception):
    """Something the user can mend: a setting, a path, a full disk.

    The message says what was found, where, what was expected and what to do next. The command line
    prints it without a traceback and exits with status 2.
    """


class Stopped(Exception):
    """A stage stopped because it was asked to; what it had saved stays."""

"""Quote the arguments of an inner Snakemake for the shell."""

from __future__ import annotations

import builtins
import shlex
from typing import Any

from snakemake_interface_executor_plugins import utils


def quote_for_shell() -> None:
    """Let Snakemake quote strings in command lines with `shlex.quote`.

    Snakemake's interface quotes them with `repr`, which uses double quotes if a string contains an apostrophe. The
    shell would then expand `$(...)` in a path or in the value of a wildcard.
    """
    utils.repr = _quoted  # type: ignore[attr-defined]  # shadows the built-in function in this module


def _quoted(value: Any) -> str:
    return shlex.quote(value) if isinstance(value, str) else builtins.repr(value)

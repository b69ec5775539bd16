"""Call sbatch, and determine whether a failed call submitted jobs nevertheless."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence

from snakemake_executor_plugin_submitit.queries import QueryFailed

COMMAND_TIMEOUT_SECONDS = 180
_TRIES = 3
_SEARCHES_AFTER_TIMEOUT = 3
_SEARCH_PAUSE_SECONDS = 5
_TIMED_OUT = "Socket timed out"
_TRANSIENT_ERRORS = (
    _TIMED_OUT, "Unable to contact slurm controller", "Connection refused", "Connection timed out", "temporarily",
    "Zero Bytes were transmitted or received", "Transport endpoint is not connected", "in standby mode",
    "Unexpected message received", "Communication connection failure",
)  # fmt: skip
_SUBMIT_LIMIT = re.compile(r"(Max|Grp)Submit\w*")
_POLICY = "Job violates accounting/QOS policy"
_INVALID_ARRAY = "Invalid job array specification"


class SubmissionRefused(Exception):
    """sbatch rejected the jobs. The message is sbatch's error message."""


class ArrayTooLarge(SubmissionRefused):
    """The job array has more elements than the SLURM cluster allows."""


class SubmitLimitReached(SubmissionRefused):
    """The user, account or QOS has too many jobs in the queue."""

    def __init__(self, message: str, *, certain: bool) -> None:
        super().__init__(message)
        self.certain = certain
        """Whether SLURM named the limit. Otherwise, the job may also violate a limit on its size or time."""


class SubmissionUnknown(SubmissionRefused):
    """sbatch failed, and SLURM did not tell whether it accepted the jobs."""


def is_transient(message: str) -> bool:
    """Return whether the error message of a SLURM command describes a temporary problem."""
    return any(words in message for words in _TRANSIENT_ERRORS)


def sbatch(arguments: Sequence[str], environment: Mapping[str, str], find: Callable[[], str | None]) -> str:
    """Submit a job script and return the number of the job or array.

    sbatch runs in a separate session. Otherwise, Ctrl-C in the terminal could kill it after the controller has accepted
    the jobs and before the number is read.

    Args:
        arguments: Options and the path of the job script.
        environment: Environment variables, from `submission_environment`.
        find: Function that returns the number if the controller has accepted the jobs. It is called after sbatch
            failed, because the jobs may have been accepted before the failure.

    Raises:
        SubmissionRefused: The jobs were not submitted. The message is sbatch's error message.
        SubmissionUnknown: The jobs may have been submitted.
    """
    message = ""
    for attempt in range(_TRIES):
        number, message = _call(arguments, environment)
        if not number:
            number = _accepted(find, message)
        if number:
            return number
        if not is_transient(message):
            break
        time.sleep(2**attempt)
    raise _refusal(message)


def _call(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, str]:
    """Return the number from sbatch's output and an empty message, or an empty number and the error message."""
    try:
        done = subprocess.run(
            ["sbatch", "--parsable", *arguments],
            capture_output=True,
            text=True,
            env=dict(environment),
            timeout=COMMAND_TIMEOUT_SECONDS,
            start_new_session=True,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return "", f"{_TIMED_OUT}: sbatch did not end within {COMMAND_TIMEOUT_SECONDS} s"
    except OSError as error:
        return "", str(error)
    if done.returncode == 0 and (found := re.search(r"^(\d+)(;.*)?$", done.stdout, re.MULTILINE)):
        return found[1], ""
    message = (done.stderr.strip() or done.stdout.strip()).replace("sbatch: error: ", "")
    return "", " ".join(message.split()) or "sbatch failed without a message"


def _accepted(find: Callable[[], str | None], message: str) -> str | None:
    """Return the number of accepted jobs, or None. After a timeout, the controller may accept the jobs later."""
    searches = _SEARCHES_AFTER_TIMEOUT if _TIMED_OUT in message else 1
    answered = False
    for attempt in range(max(searches, _TRIES)):
        try:
            number = find()
        except QueryFailed:
            number = None
        else:
            answered = True
            searches -= 1
        if number or (answered and searches <= 0):
            return number
        time.sleep(_SEARCH_PAUSE_SECONDS if answered else 2**attempt)
    if answered:
        return None
    raise SubmissionUnknown(f"{message}. SLURM did not respond when asked whether it accepted the job")


def _refusal(message: str) -> SubmissionRefused:
    if _INVALID_ARRAY in message:
        return ArrayTooLarge(message)
    named = _SUBMIT_LIMIT.search(message) is not None
    if named or (_POLICY in message and "job submit limit" in message):
        return SubmitLimitReached(message, certain=named)
    return SubmissionRefused(message)

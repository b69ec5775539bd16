"""Checks that the files a run depends on have not changed since the run was planned."""

from __future__ import annotations

from mem.errors import UserError
from mem.jobs.job import Job


def require_unchanged(job: Job, what: str, setting: str, digest: str | None) -> None:
    """Check that a file has not changed since the run was planned.

    Raises:
        UserError: The file changed.
    """
    planned = job.run.settings.get(setting)
    if planned is not None and digest != planned:
        raise UserError(changed_since_planning(what, digest, planned))


def changed_since_planning(what: str, digest: str | None, planned: object) -> str:
    """Return the error message for a file that changed after the run was planned."""
    return (
        f"{what}: changed after this run was planned (digest {digest}, was {planned}). Run the study again to plan a "
        "new run for the new content."
    )

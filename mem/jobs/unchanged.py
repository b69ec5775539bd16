"""Checks that the files a run depends on have not changed since the run was planned."""

from __future__ import annotations

from mem.errors import UserError
from mem.jobs.job import Job


def require_unchanged(job: Job, what: str, setting: str, digest: str | None) -> None:
    """Check that a file has the content for which the run was planned.

    Raises:
        UserError: The file changed, or it did not exist when the run was planned, so that the key does not contain it.
    """
    planned = job.run.settings.get(setting)
    if digest == planned:
        return
    was = "it did not exist then" if planned is None else f"was {planned}"
    now = "it is missing now" if digest is None else f"digest {digest}"
    raise UserError(
        f"{what}: changed after this run was planned ({now}, {was}). Run the study again to plan a new run for the new "
        "content."
    )
